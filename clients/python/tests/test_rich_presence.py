"""Devices, idleness, availability, statuses with an end, counts and graces."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

from conftest import World, until


async def test_devices_and_idleness_are_seen(world: World) -> None:
    service = await world.service()
    me = await world.user("john")
    async with me.connect(device="desktop") as desk, service.watch(["john"]) as watch:
        async with me.connect(device="mobile", idle=True):
            await until(lambda: getattr(watch["john"], "devices", ()) == ("desktop", "mobile"))
            assert getattr(watch["john"], "availability", "") == "active"
            await desk.set_idle(True)
            await until(lambda: getattr(watch["john"], "availability", "") == "away")
            await desk.set_device("laptop")
            await until(lambda: getattr(watch["john"], "devices", ()) == ("laptop", "mobile"))
        own = await desk.update(availability="busy")
        assert own.availability_choice == "busy"
        await until(lambda: getattr(watch["john"], "availability", "") == "busy")


async def test_seats_have_devices_and_idleness(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease, service.watch(["john"]) as watch:
        seat = await lease.connect("john", device="web")
        await seat.set_idle(True)
        await until(lambda: getattr(watch["john"], "availability", "") == "away")
        assert getattr(watch["john"], "devices", ()) == ("web",)


async def test_a_status_ends_by_itself(world: World) -> None:
    me = await world.user("john")
    end = datetime.now(timezone.utc) + timedelta(seconds=2)
    async with me.connect(status="lunch", status_expires_at=end) as connection:
        assert connection.me is not None and connection.me.status_expires_at is not None
        async with (await world.service()).watch(["john"]) as watch:
            await until(lambda: watch["john"] is not None and watch["john"].status is None)


async def test_users_are_counted_and_deleted_by_filter(world: World) -> None:
    service = await world.service()
    await service.upsert({"id": f"u{n}", "n": n} for n in range(150))
    assert await service.count({"n": {"$gte": 20}}) == 130
    deleted = await service.delete_where({"n": {"$gte": 20}})
    assert len(deleted) == 130
    assert await service.count() == 20


async def test_a_restart_with_a_grace_is_seen_by_nobody(world: World) -> None:
    service, others = await world.service(), await world.service()
    lease = await service.lease("gw")
    await lease.connect("john")
    async with others.watch(["john"]) as watch:
        await lease.close(restart=True)
        await asyncio.sleep(1.5)  # More than the grace of a plain disconnect.
        async with service.lease("gw") as successor:
            await successor.connect("john")
            changes = []
            while (change := watch._next_change()) is not None:
                changes.append(change)
            assert not changes
            assert watch["john"] is not None and watch["john"].online
