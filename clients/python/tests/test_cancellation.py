"""A call may be cancelled at each of its awaits, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Callable

import pytest
from conftest import World, until

import presenced

Step = Callable[[presenced.Service, presenced.Lease, int], Awaitable[Any]]


async def connects(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    async with service.connect(f"u{number}", status="x"):
        pass


async def updates(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    await CONNECTIONS[service].update(status=str(number))


async def takes_a_seat(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    async with lease.connect(f"s{number}") as seat:
        await seat.update(status="x")


async def watches(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    async with service.watch([f"w{number}", "john"]) as watch:
        await watch.__anext__()


async def watches_those_who_match(
    service: presenced.Service, lease: presenced.Lease, number: int
) -> None:
    async with service.watch_where({"online": True}):
        pass


async def watches_all(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    async with service.watch_all():
        pass


async def watches_a_channel(
    service: presenced.Service, lease: presenced.Lease, number: int
) -> None:
    data = {"members": ["john"]}
    async with service.watch_channel("team", f"c{number}", data=data):
        pass


async def asks(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    await service.users({"online": True})
    await service.count()


async def opens_a_lease(service: presenced.Service, lease: presenced.Lease, number: int) -> None:
    async with service.lease("other") as other:
        await other.connect("jill")


STEPS: list[Step] = [
    connects,
    updates,
    takes_a_seat,
    watches,
    watches_those_who_match,
    watches_all,
    watches_a_channel,
    asks,
    opens_a_lease,
]
CONNECTIONS: dict[presenced.Service, presenced.Connection] = {}


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture
async def service(world: World) -> AsyncIterator[presenced.Service]:
    nc = await world.connect()
    async with presenced.service(nc) as service:
        CONNECTIONS[service] = await service.connect("john")
        yield service
        CONNECTIONS.clear()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_a_call_may_be_cancelled_anywhere(service: presenced.Service, step: Step) -> None:
    """Cancels after one turn of the loop, after two, and so on, and a little later each time."""
    async with service.lease("gw") as lease:
        for number in itertools.chain(range(40), range(40, 140, 5)):
            task = asyncio.ensure_future(step(service, lease, number))
            await turns(min(number, 40))
            if number > 40:
                await asyncio.sleep((number - 40) / 4000)  # Up to 25 ms.
            cancelled = task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert done, f"a cancellation after {number} turns is lost"
            assert task.cancelled() or not cancelled or task.exception() is None
        await until(lambda: not lease.seats)
    assert (await CONNECTIONS[service].update(status="still here")).status == "still here"

    async def others_have_left() -> bool:
        online = await service.users({"online": True}, fresh=True)
        return [user.id for user in online] == ["john"]

    await until(others_have_left)


async def test_closing_may_be_cancelled_and_leaves_no_task(bare: World) -> None:
    # Heartbeats so far apart that none of them ends a task that was forgotten.
    bare.settings.update({"liveness.heartbeat_interval": "20s", "liveness.lease": "60s"})
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    nc = await bare.connect()
    await nc.request("presence.v1.query_users", b"{}")  # The task of its inbox stays.
    before = asyncio.all_tasks()
    for number in range(1, 13):
        service = presenced.service(nc)
        await service.connect("john")
        lease = await service.lease("gw")
        await lease.connect("jack")
        watches: list[presenced.Watch] = [
            await service.watch(["jack"]),
            await service.watch_where({}),
            await service.watch_all(),
        ]
        closing = asyncio.ensure_future(service.close())
        await turns(number)
        closing.cancel()
        await asyncio.wait({closing}, timeout=5)
        assert closing.done()
        try:
            await until(lambda: asyncio.all_tasks() <= before, 3)
        except AssertionError:
            raise AssertionError(f"tasks are left: {asyncio.all_tasks() - before}") from None
        assert all(watch.state == "closed" for watch in watches)
        await service.close()
    assert nc.is_connected


@pytest.mark.parametrize("number", [1, 3, 6])
async def test_a_close_that_is_cancelled_disconnects_as_well(bare: World, number: int) -> None:
    bare.settings.update({"liveness.heartbeat_interval": "20s", "liveness.lease": "60s"})
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service = await bare.service()
    connection = await service.connect("john")
    lease = await service.lease("gw")
    await lease.connect("jack")
    for each in (connection, lease):
        closing = asyncio.ensure_future(each.close())
        await turns(number)
        closing.cancel()
        await asyncio.wait({closing}, timeout=5)

    async def all_have_left() -> bool:
        return await service.count({"online": True}) == 0

    await until(all_have_left)


async def test_those_who_wait_for_a_change_are_woken_by_the_end(world: World) -> None:
    service = await world.service()
    watch = await service.watch(["john"])
    connection = await service.connect("jack")
    waiting = asyncio.ensure_future(watch.__anext__())
    states = connection.states()
    assert (await states.__anext__()).state == "online"
    await turns(3)
    await service.close()
    changes = await asyncio.gather(waiting, return_exceptions=True)
    assert getattr(changes[0], "state", None) == "closed"
    assert [change async for change in watch] == []
    assert [status.state async for status in states] == ["closed"]
    with pytest.raises(presenced.Closed):
        await watch.live()
        await service.get("john")


async def test_a_failure_that_comes_together_with_a_cancellation_is_not_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = await world.service()
    await service.get("john")
    for steps in range(5):
        fails = asyncio.Event()

        async def failing(*arguments: object, fails: asyncio.Event = fails) -> None:
            await fails.wait()
            raise presenced.NoAnswer("late")

        monkeypatch.setattr(service._link.nats, "request", failing)
        asking = asyncio.ensure_future(service._link.request("presence.v1.x", b"", 5))
        await until(lambda: service._link._calls)
        await asyncio.sleep(0.01)
        fails.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        del asking
        gc.collect()
        await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.name == "asyncio"]
