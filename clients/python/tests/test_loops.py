"""What is used from another event loop than its own says so at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Callable

import pytest
from conftest import World

Use = Callable[[], Awaitable[Any]]


async def _added(watch: Any, method: str) -> None:
    getattr(watch, method)("jill")


async def test_another_event_loop_is_told_at_once(world: World) -> None:
    service, unused, me = await world.service(), await world.service(), await world.user("ann")
    connection, watch = await service.connect("john"), await service.watch(["john"])
    mine = await me.connect()
    lease = await service.lease("gw")
    seat = await lease.connect("jack")
    uses: list[Use] = [
        lambda: service.get("john"),
        lambda: unused.get("john"),
        lambda: service.users(),
        lambda: service.update("john", x=1),
        lambda: me.update(x=1),
        lambda: service.connect("jill"),
        lambda: service.watch(["jill"]),
        lambda: service.watch_all(),
        lambda: service.lease("gw"),
        lambda: connection.update(x=1),
        lambda: mine.update(x=1),
        lambda: connection.close(),
        lambda: connection.wait_closed(),
        lambda: lease.connect("jill"),
        lambda: lease.close(),
        lambda: seat.update(x=1),
        lambda: seat.close(),
        lambda: watch.live(),
        lambda: watch.close(),
        lambda: watch.__anext__(),
        lambda: _added(watch, "add"),
        lambda: _added(watch, "remove"),
        lambda: service.close(),
    ]

    def elsewhere(use: Use) -> str:
        async def run() -> None:
            await asyncio.wait_for(use(), 5)

        with pytest.raises(RuntimeError) as caught:
            asyncio.run(run())
        return str(caught.value)

    for number, use in enumerate(uses):
        message = await asyncio.to_thread(elsewhere, use)
        assert "client belongs to another event loop" in message, (number, message)
    # All goes on where it belongs.
    assert (await connection.update(x=2)).fields["x"] == 2
    assert (await mine.update(x=2)).fields["x"] == 2
    await seat.update(x=2)
    await service.close()
