"""A user who is hidden stays so when its record is made again, whatever of the door hid it."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable
from typing import Callable

import pytest
from conftest import Tap, World, until

import presenced


async def by_the_door(world: World, service: presenced.Service) -> None:
    me = await world.user("john")
    connection = await me.connect(status="a")
    await me.update(invisible=True)
    assert connection.me is not None and connection.me.invisible


async def by_another_connection(world: World, service: presenced.Service) -> None:
    me = await world.user("john")
    first, second = await me.connect(), await me.connect()
    await second.update(invisible=True)
    assert first.me is not None and first.me.invisible


async def by_another_seat(world: World, service: presenced.Service) -> None:
    lease = await service.lease("gw")
    await lease.connect("john")
    await (await lease.connect("john")).update(invisible=True)


async def by_a_seat_of_another_lease(world: World, service: presenced.Service) -> None:
    await (await service.lease("gw")).connect("john")
    await (await (await service.lease("gw")).connect("john")).update(invisible=True)


async def by_the_service(world: World, service: presenced.Service) -> None:
    await (await service.lease("gw")).connect("john")
    await service.update("john", invisible=True)


async def by_an_upsert_beside_a_connection(world: World, service: presenced.Service) -> None:
    await service.connect("john")
    await service.upsert([{"id": "jack"}, {"id": "john", "invisible": True}])


async def before_the_seat(world: World, service: presenced.Service) -> None:
    other = await world.service()
    await other.update("john", invisible=True)
    await (await service.lease("gw")).connect("john")


async def seen_by_the_own_watch(world: World, service: presenced.Service) -> None:
    me, other = await world.user("john"), await world.user("john")
    connection, watch = await me.connect(), await me.watch(["john"])
    await other.update(invisible=True)

    def is_known() -> bool:
        assert connection.me is not None
        return connection.me.invisible

    await until(is_known)
    await watch.close()


async def seen_by_a_query(world: World, service: presenced.Service) -> None:
    me, other = await world.user("john"), await world.user("john")
    await me.connect()
    await other.update(invisible=True)
    await me.get("john")


WAYS = [
    by_the_door,
    by_another_connection,
    by_another_seat,
    by_a_seat_of_another_lease,
    by_the_service,
    by_an_upsert_beside_a_connection,
    before_the_seat,
    seen_by_the_own_watch,
    seen_by_a_query,
]
Hide = Callable[[World, presenced.Service], Awaitable[None]]


@pytest.mark.parametrize("hide", WAYS)
async def test_who_is_hidden_stays_so_over_a_deletion(world: World, hide: Hide) -> None:
    service, other = await world.service(), await world.service()
    await hide(world, service)
    explained = await other.explain("john")
    connects = await Tap.on(world, "presence.v1.>")
    tap = await Tap.on(world, "user.presence.changed.john")
    await other.delete(["john"])

    async def is_back() -> bool:
        try:
            return len((await other.explain("john"))["connections"]) == number
        except presenced.Refused:
            return False

    number = len(explained["connections"])
    assert number
    await until(is_back)
    john = await other.get("john")
    assert john is not None and not john.online
    assert not any(body["user"]["online"] for body in tap.bodies), connects.bodies


async def test_the_newest_of_a_door_survives_the_loss_of_the_store(bare: World) -> None:
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    sam = await bare.user("sam")
    first, second = await sam.connect(status="old"), await sam.connect()
    await second.update(status="new", availability="busy")
    await sam.update(status="newest")
    service = await bare.service()
    await (await service.lease("gw")).connect("jill", status="old")
    await service.update("jill", status="newest", availability="away")
    bare.kill_nats()
    shutil.rmtree(bare.folder / "store")
    bare.start_nats()
    other = await bare.service()

    async def are_back() -> bool:
        try:
            users = await other.get_many(["sam", "jill"])
        except presenced.Busy:  # The store is read again.
            return False
        return all(user is not None and user.online for user in users.values())

    await until(are_back, 30)
    users = await other.get_many(["sam", "jill"])
    shown = [(user.status, user.availability) for user in users.values() if user is not None]
    assert shown == [("newest", "busy"), ("newest", "away")]
    assert first.me is not None and first.me.status == "newest"


async def test_a_door_forgets_a_user_with_its_last_object(world: World) -> None:
    service, other = await world.service(), await world.service()
    lease = await service.lease("gw")
    first, second = await lease.connect("john", invisible=True), await lease.connect("john")
    await first.close()
    assert service._users.get("john") is not None
    await second.close()
    assert service._users.get("john") is None
    connection = await service.connect("jack", status="x")
    await connection.close()
    assert service._users.get("jack") is None
    assert connection.me is not None and connection.me.status == "x"
    await other.delete(["john"])
    await lease.connect("john")
    john = await other.get("john")
    assert john is not None and john.online
