"""Leases with seats."""

from __future__ import annotations

import asyncio
import json

import pytest
from conftest import Tap, World, same_versions, until

import presenced


async def online(service: presenced.Service) -> int:
    return len(await service.users({"online": True}, fresh=True))


async def test_many_seats_ride_in_batches(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        seats = await asyncio.gather(*(lease.connect(f"u{n}", status="x") for n in range(500)))
        assert lease.held == await online(service) == 500
        await asyncio.gather(*(seat.update(status="y") for seat in seats[:300]))
        assert len(await service.users({"status": "y"}, fresh=True)) == 300
        await asyncio.gather(*(seat.close() for seat in seats[:200]))
        assert lease.held == 300
    await until(lambda: _none_online(service))


async def _none_online(service: presenced.Service) -> bool:
    return await online(service) == 0


async def test_an_error_of_one_seat_is_its_own(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        results = await asyncio.gather(
            lease.connect("john", status="x"),
            lease.connect("jack", status=17),
            lease.connect("jill", status="y" * 2000),
            return_exceptions=True,
        )
        assert isinstance(results[0], presenced.Seat)
        assert isinstance(results[1], presenced.Refused)
        assert isinstance(results[2], presenced.Refused)
        assert results[2].code == "too_large"
        assert lease.held == 1


async def test_a_batch_that_is_too_large_is_split(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        # A character takes six bytes on the way, and two in the store.
        users = [(f"u{n}", {"text": "\u00fc" * 2000}) for n in range(300)]
        await asyncio.gather(*(lease.connect(id, fields, timeout=60) for id, fields in users))
        assert await online(service) == 300


async def test_a_lease_that_lapsed_comes_back_under_a_new_name(world: World) -> None:
    service, other = await world.service(), await world.connect()
    async with service.lease("gw") as lease:
        await asyncio.gather(*(lease.connect(f"u{n}") for n in range(20)))
        name = lease.name
        await other.request(
            "presence.v1.disconnect", json.dumps({"lease": name}).encode(), timeout=5
        )
        await until(lambda: lease.name != name)
        assert lease._states.current.relapsed
        await until(lambda: lease.held == 20)
        assert await online(service) == 20


async def test_a_lease_that_holds_too_few_is_filled_again_and_again(world: World) -> None:
    service, other = await world.service(), await world.service()
    tap = await Tap.on(world, "presence.v1.batch")
    beats = await Tap.on(world, "presence.v1.heartbeat")
    async with service.lease("gw") as lease:
        seats = await asyncio.gather(*(lease.connect(f"u{n}") for n in range(5)))
        name = lease.name
        for _ in range(2):
            tap.sent.clear()
            body = {"user_id": "u0", "connection_id": seats[0].id, "grace_ms": 0}
            await other._calls.call("disconnect", body)
            await until(lambda: sum(len(body["ops"]) for body in tap.bodies) >= 5)
            await until(lambda: _online(other, "u0"))
        await until(lambda: lease.held == 5)
        assert lease.name == name
        assert len(beats.sent) < 40, "two answers in turn are enough"


async def _online(service: presenced.Service, id: str) -> bool:
    user = await service.get(id)
    return user is not None and user.online


async def _offline(service: presenced.Service, id: str) -> bool:
    return not await _online(service, id)


async def test_a_ghost_on_a_lease_is_shaken_off(world: World) -> None:
    service, other = await world.service(), await world.connect()
    tap = await Tap.on(world, "presence.v1.disconnect")
    async with service.lease("gw") as lease:
        await asyncio.gather(*(lease.connect(f"u{n}") for n in range(5)))
        name = lease.name
        body = {"user": {"id": "ghost"}, "connection_id": "g", "lease": name}
        await other.request("presence.v1.connect", json.dumps(body).encode(), timeout=5)
        assert await _online(service, "ghost")
        async with service.watch([f"u{n}" for n in range(5)]) as watch:
            await until(lambda: _offline(service, "ghost"))
            assert lease.name != name
            await until(lambda: {"lease": name} in tap.bodies)
            assert all(user is not None and user.online for user in watch.values())
            assert watch._next_change() is None
            await until(lambda: same_versions(world, watch))


async def test_a_seat_that_closes_while_it_connects_is_disconnected(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        await lease.connect("anna")
        connecting = asyncio.ensure_future(lease.connect("john"))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await until(lambda: len(lease.seats) == 1)
        await until(lambda: _offline(service, "john"))


async def test_a_lease_that_closes_while_seats_connect_leaves_no_ghost(world: World) -> None:
    """The end of a lease is not remembered: it must not overtake a batch of the lease."""
    service, others = await world.service(), await world.service()
    once = service._calls.once
    under_way: list[asyncio.Task[object]] = []

    async def slow(operation: str, *arguments: object) -> object:
        if operation != "batch":
            return await once(operation, *arguments)  # type: ignore[arg-type]

        async def later() -> object:  # As by a daemon that is behind.
            await asyncio.sleep(0.3)
            return await once(operation, *arguments)  # type: ignore[arg-type]

        under_way.append(asyncio.ensure_future(later()))
        return await asyncio.shield(under_way[-1])

    service._calls.once = slow  # type: ignore[method-assign, assignment]
    async with service.lease("gw") as lease:
        connecting = [asyncio.ensure_future(lease.connect(f"u{n}")) for n in range(5)]
        await until(lambda: under_way)
    await asyncio.gather(*under_way, *connecting, return_exceptions=True)
    await asyncio.sleep(0.7)  # The grace.
    assert await online(others) == 0


async def test_the_answer_of_a_seat_costs_the_same_however_many_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    values: dict[int, bool] = {}

    def read(seat: presenced.Seat) -> bool:
        nonlocal reads
        reads += 1
        return values.get(id(seat), False)

    def write(seat: presenced.Seat, value: bool) -> None:
        values[id(seat)] = value

    monkeypatch.setattr(presenced.Seat, "_connected", property(read, write), raising=False)
    service = await world.service()
    async with service.lease("gw") as lease:
        await asyncio.gather(*(lease.connect(f"u{n}", timeout=60) for n in range(1000)))
        assert reads < 1000 * 100
        assert lease.held == 1000


async def test_a_change_of_a_seat_costs_the_same_however_many_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, wants = 0, presenced.Seat._wants.fget  # type: ignore[attr-defined]

    def counting(seat: presenced.Seat) -> bool:
        nonlocal looks
        looks += 1
        return bool(wants(seat))

    service = await world.service()
    async with service.lease("gw") as lease:
        seats = await asyncio.gather(*(lease.connect(f"u{n}", timeout=60) for n in range(1000)))
        await until(lambda: not lease._batches and not lease._seats._dirty)
        monkeypatch.setattr(presenced.Seat, "_wants", property(counting))
        for number in range(20):
            await seats[0].update(x=number)
        assert looks < 20 * 20
