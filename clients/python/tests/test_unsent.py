"""Links over which nothing goes out any more, with bytes that wait to be sent."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nats
import pytest
from conftest import World, until
from proxy import Proxy

import presenced
from presenced._probe import Probe

BIG = [{"id": f"x{n}", "text": "y" * 4000} for n in range(100)]


@contextmanager
def clogged(proxy: Proxy, nc: nats.NATS, service: presenced.Service) -> Iterator[None]:
    """Has a link hold back more than the buffers of its sockets take."""
    transport: Any = nc._transport
    writer = transport._io_writer
    own = writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    for other in proxy._writers:
        other.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    proxy.black_hole_now()
    sending = [asyncio.ensure_future(service.upsert(BIG)) for _ in range(4)]
    try:
        yield
    finally:
        for task in sending:
            task.cancel()


def unsent(nc: nats.NATS) -> int:
    transport: Any = nc._transport
    return int(transport._io_writer.transport.get_write_buffer_size())


async def test_a_link_with_unsent_bytes_is_left(world: World) -> None:
    proxy = await world.proxy()
    nc = await world.connect(proxy.url)
    service = presenced.service(nc)
    world.clients.append(service)
    lease = await service.lease("gw")
    await lease.connect("john")
    with clogged(proxy, nc, service):
        start = time.monotonic()
        await until(lambda: unsent(nc) > 0, 1)
        await until(lambda: nc.stats["reconnects"] == 1, 12)
        assert time.monotonic() - start < 3 * 2.5 + 1.5
        await until(lambda: lease.state == "online")


async def test_a_link_that_nats_py_leaves_by_itself_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "begin", lambda probe: None)
    proxy = await world.proxy()
    nc = await world.connect(proxy.url, ping_interval=1, max_outstanding_pings=1)
    service = presenced.service(nc)
    world.clients.append(service)
    async with service.watch(["john"]) as watch:
        with clogged(proxy, nc, service):
            await until(lambda: unsent(nc) > 0, 1)
            await until(lambda: nc.stats["reconnects"] == 1, 6)
            await until(lambda: watch.state == "live")


async def test_a_client_that_owns_such_a_link_closes_in_time(world: World) -> None:
    proxy = await world.proxy()
    service = await presenced.connect(proxy.url)
    await service.connect("john")
    nc = service._owned
    assert nc is not None
    with clogged(proxy, nc, service):
        await until(lambda: unsent(nc) > 0, 1)
        start = time.monotonic()
        await service.close()
        assert time.monotonic() - start < 2 + 1 + 0.5
    assert nc.is_closed
