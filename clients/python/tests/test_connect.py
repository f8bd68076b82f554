"""``presenced.connect`` where no NATS server answers, or none lets it in."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from conftest import World, free_port, permitted

import presenced


@pytest.mark.parametrize("options", [{}, {"max_reconnect_attempts": 1}, {"allow_reconnect": False}])
async def test_a_dead_address_is_an_error_in_time(options: dict[str, Any]) -> None:
    before, port, start = asyncio.all_tasks(), free_port(), time.monotonic()
    url = f"nats://john:secret@127.0.0.1:{port}"
    with pytest.raises(presenced.Disconnected) as caught:
        await presenced.connect(url, timeout=1.5, reconnect_time_wait=0.1, **options)
    assert time.monotonic() - start < 2.5
    assert caught.value.retryable and f"127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    if "max_reconnect_attempts" not in options:  # nats-py keeps only that it tried often enough.
        assert "Connect call failed" in str(caught.value)
    assert asyncio.all_tasks() == before


async def test_an_address_that_is_none_says_why() -> None:
    with pytest.raises(presenced.Disconnected, match=r"host:notaport .*invalid connect url"):
        await presenced.connect("nats://u:p@host:notaport")


async def test_a_server_that_says_nothing_is_an_error_in_time() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port, start = server.sockets[0].getsockname()[1], time.monotonic()
    with pytest.raises(presenced.Disconnected):
        async with presenced.connect(f"nats://127.0.0.1:{port}", user="john", timeout=0.5):
            raise AssertionError("nothing is connected")
    assert time.monotonic() - start < 1.5
    server.close()


async def test_a_login_that_is_refused_is_an_error_in_time(bare: World) -> None:
    await permitted(bare)
    url = bare.url.replace("//", "//john:wrong@")
    with pytest.raises(presenced.Denied) as caught:
        await presenced.connect(url, timeout=1, reconnect_time_wait=0.1)
    assert "login" in str(caught.value) and "wrong" not in str(caught.value)


async def test_a_connect_waits_for_a_server_that_comes(bare: World) -> None:
    connecting = asyncio.ensure_future(presenced.connect(bare.url, timeout=None))
    await asyncio.sleep(0.5)
    bare.start_nats()
    service = await asyncio.wait_for(connecting, 10)
    await service.close()


async def test_a_connect_that_is_cancelled_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    connecting = asyncio.ensure_future(presenced.connect(f"nats://127.0.0.1:{free_port()}"))
    await asyncio.sleep(0.3)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    assert asyncio.all_tasks() == before
