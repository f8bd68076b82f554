"""Messages on the wire: heartbeats, batches, queries and ids follow the rules of all clients."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from conftest import LEASE, Tap, World, until

import presenced
from presenced._slot import Slot


async def test_every_second_heartbeat_asks_for_its_answer(world: World) -> None:
    tap = await Tap.on(world, "presence.v1.heartbeat.john")
    me = await world.user("john")
    async with me.connect() as connection:
        await until(lambda: len(tap.sent) >= 6)
        assert tap.bodies[0] == {"connection_id": connection.id}
    assert [asked for _, _, asked in tap.sent[:6]] == [True, False, True, False, True, False]
    mean = (tap.sent[5][0] - tap.sent[0][0]) / 5
    assert 0.85 < mean < 1.2


async def test_a_write_that_fails_keeps_no_heartbeat_waiting(world: World) -> None:
    service = await world.service()
    async with service.connect("john") as connection:
        once, failing = connection._calls.once, True

        async def busy(operation: str, *arguments: Any) -> Any:
            if failing and operation == "upsert_users":
                raise presenced.Busy("the store is slow", code="contended")
            return await once(operation, *arguments)

        connection._calls.once = busy  # type: ignore[method-assign]
        tap = await Tap.on(world, "presence.v1.heartbeat")
        with pytest.raises(presenced.Busy):
            await connection.update(status="x", timeout=LEASE + 2)
        assert len(tap.sent) >= 4
        assert not connection._states.current.relapsed
        failing = False
        assert (await connection.update(name="John", timeout=12)).status == "x"


async def test_a_lease_asks_with_one_heartbeat_for_all(world: World) -> None:
    tap = await Tap.on(world, "presence.v1.heartbeat")
    service = await world.service()
    async with service.lease("gw") as lease:
        await asyncio.gather(*(lease.connect(f"u{n}") for n in range(50)))
        await until(lambda: len(tap.sent) >= 4)
        assert all(body == {"lease": lease.name} for body in tap.bodies)
        assert all(asked for _, _, asked in tap.sent)


async def test_seats_are_joined_into_batches_of_two_hundred(world: World) -> None:
    tap = await Tap.on(world, "presence.v1.batch")
    service = await world.service()
    async with service.lease("gw") as lease:
        seats = await asyncio.gather(*(lease.connect(f"u{n}") for n in range(450)))
        await asyncio.gather(*(seat.update(x=1) for seat in seats))
    assert max(len(body["ops"]) for body in tap.bodies) == 200
    assert len(tap.bodies) < 20
    for body in tap.bodies:  # Only a connect has views in its answer, which tell who is hidden.
        assert body["me"] is any(op["op"] == "connect" for op in body["ops"])
    assert not all(body["me"] for body in tap.bodies)


async def test_a_batch_that_fails_is_sent_again_as_one(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        once, sizes = service._calls.once, []

        async def busy_at_first(operation: str, body: Any, *arguments: Any) -> Any:
            if operation == "batch":
                sizes.append(len(body["ops"]))
                if len(sizes) == 1:
                    raise presenced.Busy("the store is slow", code="contended")
            return await once(operation, body, *arguments)

        service._calls.once = busy_at_first  # type: ignore[method-assign]
        await asyncio.gather(*(lease.connect(f"u{n}") for n in range(150)))
        assert sizes == [150, 150]


async def test_users_are_asked_for_a_hundred_at_a_time(world: World) -> None:
    tap = await Tap.on(world, "presence.v1.query_users")
    service = await world.service()
    watches = await asyncio.gather(*(service.watch([f"u{n}"]) for n in range(250)))
    asked = [body["filter"]["id"]["$in"] for body in tap.bodies]
    assert sorted(map(len, asked)) == [50, 100, 100]
    assert all(body["presence"] and body["limit"] >= 100 for body in tap.bodies)
    await service.watch(["u0"])
    assert len(tap.bodies) == 3, "what is known is not asked for again"
    assert all(watch.state == "live" for watch in watches)


async def test_audits_go_round_among_those_who_are_watched(world: World) -> None:
    service = await world.service(audit=0.2)
    ids = [f"u{n}" for n in range(250)]
    async with service.watch(ids):
        tap = await Tap.on(world, "presence.v1.query_users")
        await until(lambda: len(tap.sent) >= 3)
        asked = [id for body in tap.bodies[:3] for id in body["filter"]["id"]["$in"]]
        assert set(asked) == set(ids)


async def test_requests_of_one_user_go_one_after_the_other(world: World) -> None:
    service = await world.service()
    once, under_way, most = service._calls.once, 0, 0

    async def counting(operation: str, *arguments: Any) -> Any:
        nonlocal under_way, most
        counts = operation != "heartbeat"
        under_way += counts
        most = max(most, under_way)
        try:
            return await once(operation, *arguments)
        finally:
            under_way -= counts

    service._calls.once = counting  # type: ignore[method-assign]
    connections = await asyncio.gather(*(service.connect("john") for _ in range(3)))
    updates = [c.update({f"field-{n}": n}) for n, c in enumerate(connections)]
    await asyncio.gather(*updates, *(c.set_idle(True) for c in connections))
    await asyncio.gather(*(connection.close() for connection in connections))
    async with service.lease("gw") as lease:
        seats = await asyncio.gather(*(lease.connect("john") for _ in range(3)))
        await asyncio.gather(*(seat.update(status="x") for seat in seats))
        await asyncio.gather(*(seat.close() for seat in seats))
    assert most == 1


async def test_each_connection_has_an_id_of_its_own(world: World) -> None:
    tap = await Tap.on(world, "presence.v1.connect.john")
    proxy = await world.proxy()
    me = await world.user("john", proxy.url)
    for _ in range(2):
        async with me.connect() as connection:
            online = connection.since
            proxy.cut()
            await until(lambda c=connection, o=online: c.since > o and c.state == "online")
    ids = [body["connection_id"] for body in tap.bodies]
    assert len(ids) >= 4 and len(set(ids)) == 2
    assert all(len(bytes.fromhex(id)) == 16 for id in ids)


async def test_a_user_who_is_made_again_is_as_it_was_set(world: World) -> None:
    service = await world.service()
    me = await world.user("john")
    async with me.connect(name="John", availability="busy") as connection:
        await service.update("john", invisible=True)  # Another of the user's devices.
        await connection.update(status="x")
        await service.delete(["john"])
        await until(lambda: connection._states.current.relapsed)
        own = await connection.update(color="red")
        assert own.invisible and own.availability_choice == "busy"
        assert (own.status, own.fields) == ("x", {"name": "John", "color": "red"})


async def test_defaults_count_only_for_a_user_who_is_made(world: World) -> None:
    service = await world.service()
    await service.update("ann", team="red")
    async with service.lease("gw") as lease:
        await lease.connect("ann", defaults={"team": "new"})
        await lease.connect("bob", defaults={"team": "new"})
        async with service.connect("cid", defaults={"team": "new"}) as connection:
            assert connection.me is not None and connection.me.fields["team"] == "new"
        users = await service.get_many(["ann", "bob"])
        assert [user and user.fields["team"] for user in users.values()] == ["red", "new"]


async def test_a_status_that_has_ended_does_not_hinder_a_reconnect(world: World) -> None:
    service = await world.service()
    lunch = {
        "status": "lunch",
        "status_expires_at": datetime.now(timezone.utc) + timedelta(seconds=1),
    }
    async with service.lease("gw") as lease, service.connect("john", lunch) as connection:
        seat = await lease.connect("jack", {**lunch, "name": "Jack"})
        await asyncio.sleep(1.2)
        await service.delete(["john", "jack"])
        await until(lambda: connection._states.current.relapsed and connection.state == "online")
        assert connection.me is not None and connection.me.status is None
        await until(lambda: seat.state == "online" and lease.held == 1)
        await seat.update(color="red")
        jack = await service.get("jack")
        assert jack is not None and jack.fields == {"name": "Jack", "color": "red"}


async def test_who_is_added_costs_the_same_however_many_are_watched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await world.service()
    async with service.watch([f"u{n}" for n in range(1000)]):
        await until(lambda: not service._hub._dirty)
        looks, holds = 0, service._link.holds

        def counting(sub: Any) -> bool:
            nonlocal looks
            looks += 1
            return holds(sub)

        monkeypatch.setattr(service._link, "holds", counting)
        for number in range(10):
            async with service.watch([f"v{number}"]) as watch:
                assert watch.state == "live"
        assert looks < 10 * 20


async def test_each_who_is_added_to_one_watch_costs_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await world.service()
    looks, standing, slot = 0, Slot.standing, service._hub.slot

    def counting(what: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            nonlocal looks
            looks += 1
            return what(*arguments)

        return counted

    monkeypatch.setattr(Slot, "standing", counting(standing))
    monkeypatch.setattr(service._hub, "slot", counting(slot))
    async with service.watch([]) as watch:
        for number in range(1000):
            watch.add(f"u{number}")
            if number % 50 == 0:
                await asyncio.sleep(0.02)
        await watch.live()
        assert looks < 1000 * 20
        assert len(watch) == 1000
    looks = 0
    for _ in range(500):
        await service.watch(["john"])
    assert looks < 500 * 20
