"""The state of a connection, a seat and a lease, and its end, can be followed and waited for."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Union

import pytest
from conftest import World, until

import presenced

Followed = Union[presenced.Connection, presenced.Lease, presenced.Seat]


class Steps:
    """All steps of a state, up to its end."""

    def __init__(self, followed: Followed) -> None:
        self.changes: list[presenced.ConnectionChange] = []
        self.task = asyncio.ensure_future(self._read(followed))

    async def _read(self, followed: Followed) -> None:
        async for change in followed.states():
            self.changes.append(change)

    @property
    def states(self) -> list[str]:
        return [str(change.state) for change in self.changes]


async def test_a_seat_and_its_lease_are_interrupted_by_a_cut_as_a_connection_is(
    world: World,
) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.lease("gw") as lease:
        seat, connection = await lease.connect("john"), await service.connect("jack")
        followed: list[Any] = [seat, lease, connection]
        steps = [Steps(each) for each in followed]
        await asyncio.sleep(0)
        proxy.refuse(True)
        await until(lambda: all(each.state == "interrupted" for each in followed))
        proxy.refuse(False)
        await until(lambda: all(each.state == "online" for each in followed))
        assert [each.last_error for each in followed] == [None] * 3
        assert not any(change.relapsed for step in steps for change in step.changes)
        await seat.close()
        await connection.close()
    for each, step in zip(followed, steps):
        await asyncio.wait_for(step.task, 5)
        assert step.states == ["online", "interrupted", "online", "closed"]
        await asyncio.wait_for(each.wait_closed(), 5)


async def test_a_seat_tells_that_it_had_lapsed_and_that_its_user_is_new(world: World) -> None:
    service, others = await world.service(), await world.service()
    async with service.lease("gw") as lease:
        seat = await lease.connect("john", status="x")
        steps = Steps(seat)
        await asyncio.sleep(0)
        await others.delete(["john"])
        body = {"lease": lease.name, "grace_ms": 0}
        await others._calls.call("disconnect", body)
        await until(lambda: len(steps.changes) >= 3)
        assert steps.states == ["online", "interrupted", "online"]
        assert steps.changes[-1].relapsed and steps.changes[-1].recreated
    await asyncio.wait_for(steps.task, 5)
    assert steps.states[-1] == "closed" and steps.changes[-1].error is None


async def test_a_seat_that_is_refused_later_ends_with_what_refuses_it(world: World) -> None:
    service, others = await world.service(), await world.connect()
    async with service.lease("gw") as lease:
        seat, other = await lease.connect("john"), await lease.connect("jack")
        ended = asyncio.ensure_future(seat.wait_closed())

        async def request(operation: str, **body: Any) -> None:
            await others.request(f"presence.v1.{operation}", json.dumps(body).encode(), timeout=5)

        for number in range(49):
            await request("connect", user={"id": "john"}, connection_id=f"c{number}")
        await request("disconnect", lease=lease.name, grace_ms=0)
        await request("connect", user={"id": "john"}, connection_id="one too many")
        with pytest.raises(presenced.Refused) as caught:
            await asyncio.wait_for(ended, 10)
        assert caught.value.code == "limit_exceeded"
        assert seat.state == "closed" and str(seat.last_error) == str(caught.value)
        assert seat not in lease.seats
        await until(lambda: other.state == "online")


async def test_the_end_of_a_lease_or_of_nats_is_waited_for(world: World) -> None:
    service = await world.service()
    lease, connection = await service.lease("gw"), await service.connect("jack")
    seat = await lease.connect("john")
    await lease.close()
    for each in (lease, seat):
        await asyncio.wait_for(each.wait_closed(), 5)
    waiting = asyncio.ensure_future(connection.wait_closed())
    await asyncio.sleep(0)
    await service._link.nats.nc.close()
    with pytest.raises(presenced.Closed):
        await asyncio.wait_for(waiting, 5)


async def test_waiting_for_the_end_may_be_cancelled(world: World) -> None:
    service = await world.service()
    async with service.connect("john") as connection:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connection.wait_closed(), 0.1)
        await until(lambda: not connection._states._readers)
        assert connection.state == "online"


async def test_a_read_of_states_that_is_cancelled_loses_nothing(world: World) -> None:
    service = await world.service()
    connection = await service.connect("john")
    states = connection.states()
    assert (await states.__anext__()).state == "online"
    for _ in range(3):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(states.__anext__(), 0.02)
    reading = asyncio.ensure_future(states.__anext__())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="each needs its own"):
        await states.__anext__()
    await connection.close()
    assert (await reading).state == "closed"
    assert [change async for change in states] == []


@pytest.mark.parametrize("beats", [False, True])
async def test_a_lease_without_seats_is_online_again_after_an_outage(
    world: World, beats: bool
) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        seat = await lease.connect("john")
        world.kill_nats()
        await until(lambda: lease.state == "interrupted")
        await seat.close(timeout=0.3)
        if not beats:
            lease._pace.interval = 600.0  # No heartbeat makes up for it.
        world.start_nats()
        await until(lambda: not lease.seats and seat.state == "closed", 20)
        await until(lambda: lease.state == "online", 5)
        assert lease.last_error is None
        await lease.connect("jack")
