"""``await``, ``async with`` and tasks: how connections, leases and watches begin and end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Callable

import pytest
from conftest import World

import presenced

Begin = Callable[[presenced.Service, presenced.Lease], Coroutine[Any, Any, Any]]
BEGINNINGS: dict[str, Begin] = {
    "connect": lambda service, lease: service.connect("john"),
    "lease": lambda service, lease: service.lease("gw"),
    "seat": lambda service, lease: lease.connect("john"),
    "watch": lambda service, lease: service.watch(["john"]),
    "watch_where": lambda service, lease: service.watch_where({}),
    "watch_channel": lambda service, lease: service.watch_channel("team", "a"),
    "watch_all": lambda service, lease: service.watch_all(),
    "users": lambda service, lease: service.users(),
    "channels": lambda service, lease: service.channels(),
}


@pytest.mark.parametrize("name", BEGINNINGS)
async def test_a_task_may_run_what_begins(world: World, name: str) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        task = asyncio.create_task(BEGINNINGS[name](service, lease))
        begun = await task
        assert isinstance(begun, list) or begun.close is not None
        cancelled = asyncio.create_task(BEGINNINGS[name](service, lease))
        await asyncio.sleep(0)
        at_once = cancelled.done()
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert cancelled.cancelled() != at_once


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no TaskGroup")
async def test_a_task_group_opens_many_seats(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(lease.connect(f"u{n}")) for n in range(20)]
        assert {task.result().user_id for task in tasks} == {f"u{n}" for n in range(20)}
        assert lease.held == 20


async def test_an_own_connection_may_begin_in_a_task(world: World) -> None:
    me = await asyncio.create_task(presenced.connect(world.url, user="john"))
    async with me, await me.connect() as connection:
        assert connection.state == "online"


@pytest.mark.parametrize("name", BEGINNINGS)
async def test_what_is_open_is_closed_by_its_block(world: World, name: str) -> None:
    if name in ("users", "channels"):
        return
    service = await world.service()
    async with service.lease("gw") as lease:
        opened = await BEGINNINGS[name](service, lease)
        async with opened as same:
            assert same is opened
        if name == "seat":
            assert not lease.seats
        else:
            assert opened.state == "closed"
        await opened.close()
        if name == "lease":
            with pytest.raises(presenced.Closed):
                await opened.connect("jill")
        elif name in ("seat", "connect"):
            with pytest.raises(presenced.Closed):
                await opened.update(status="x")
        else:
            with pytest.raises(presenced.Closed):
                await opened.live()


@pytest.mark.parametrize("name", BEGINNINGS)
async def test_what_was_never_awaited_does_nothing_and_warns(world: World, name: str) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        if name in ("users", "channels"):
            BEGINNINGS[name](service, lease)
        else:
            with pytest.warns(RuntimeWarning, match="never awaited"):
                BEGINNINGS[name](service, lease)
        assert not service._connections and not service._hub.slots
        assert service._leases == {lease} and not lease.seats


async def test_a_query_may_be_asked_again(world: World) -> None:
    service = await world.service()
    await service.update("john")
    query = service.users()
    for _ in range(2):
        assert [user.id for user in await query] == ["john"]
        assert [user.id async for user in query] == ["john"]
