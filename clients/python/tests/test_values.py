"""Values that an application passes by mistake: an error in the caller, and nothing else fails."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any, Callable

import pytest
from conftest import World

import presenced


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"x": {1}}, "x: a set"),
        ({"x": {"y": [0, b"z"]}}, r"x\.y\[1\]: a bytes"),
        ({"x": {1: 2}}, "x: the name 1"),
        ({"device": b"x"}, "device: a str"),
        ({"idle": 1}, "idle: a bool"),
        ({"defaults": {"x": {1}}}, "x: a set"),
    ],
)
async def test_a_value_that_json_has_not_is_an_error_of_its_caller(
    world: World, named: dict[str, Any], words: str
) -> None:
    service = await world.service()
    async with service.lease("gw") as lease, service.connect("john") as connection:
        seat = await lease.connect("jack")
        makers: list[Callable[..., Any]] = [lease.connect, service.connect]
        for make in makers:
            with pytest.raises(presenced.Invalid, match=words):
                make("u9", **named)
        if "x" in named:
            for session in (seat, connection):
                with pytest.raises(presenced.Invalid, match=words):
                    await session.update(**named)
        if "device" in named:
            with pytest.raises(presenced.Invalid, match=words):
                await connection.set_device(**named)
        if "idle" in named:
            with pytest.raises(presenced.Invalid, match=words):
                await seat.set_idle(**named)
        with pytest.raises(presenced.Invalid, match="x: JSON has no nan"):
            await connection.update(x=float("nan"))
        assert (await connection.update(status="here")).status == "here"
        await seat.update(status="here")
        assert lease.held == 1


async def test_an_unforeseen_error_of_a_batch_is_that_of_its_seats(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        jack = await lease.connect("jack")
        operation = presenced.Seat._operation

        def failing(seat: presenced.Seat, lease: str) -> dict[str, Any]:
            if seat.user_id == "u9" and not seat._closing:
                raise RuntimeError("unforeseen")
            return operation(seat, lease)

        monkeypatch.setattr(presenced.Seat, "_operation", failing)
        with pytest.raises(presenced.Closed, match="unforeseen"):
            await asyncio.wait_for(lease.connect("u9"), 5)
        await jack.update(status="here")
        assert (lease.state, lease.held) == ("online", 1)


async def test_a_filter_takes_times_wherever_they_stand(world: World) -> None:
    service = await world.service()
    await service.update("john")
    past = datetime(2020, 1, 1, tzinfo=timezone.utc)
    for filter in ({"created_at": {"$gt": past}}, {"$and": [{"created_at": {"$gt": past}}]}):
        assert [user.id for user in await service.users(filter, fresh=True)] == ["john"]
        assert await service.count({"$nor": [filter]}, fresh=True) == 0


async def test_what_is_too_large_for_nats_is_refused(world: World) -> None:
    service, large = await world.service(), "x" * 1_200_000
    async with service.lease("gw") as lease, service.connect("john") as connection:
        jack = await lease.connect("jack")
        calls: list[Any] = [
            connection.update(x=large),
            jack.update(x=large),
            service.connect("u8", x=large),
            lease.connect("u9", x=large),
            service.update("u7", x=large),
        ]
        for call in calls:
            with pytest.raises(presenced.Refused) as caught:
                await asyncio.wait_for(call, 5)
            assert (caught.value.code, caught.value.limit) == ("too_large", 1 << 20)
            assert not caught.value.may_have_applied
        assert (await connection.update(status="here")).status == "here"
        await jack.update(status="here")


async def test_a_text_is_not_several_ids(world: World) -> None:
    service = await world.service()
    await service.upsert([{"id": id} for id in "john"])
    calls: list[Callable[[], Any]] = [
        lambda: service.delete("john"),
        lambda: service.get_many("john"),
        lambda: service.upsert("john"),  # type: ignore[arg-type]
        lambda: service.upsert({"id": "john"}),  # type: ignore[arg-type]
        lambda: service.upsert_channel("team", "a", members="john"),
        lambda: service.upsert_channel("team", "a", add_members="john"),
        lambda: service.upsert_channel("team", "a", remove_members="john"),
        lambda: service.watch("john"),
    ]
    for call in calls:
        with pytest.raises(presenced.Invalid, match="several"):
            await call()
    assert len(await service.get_many(list("john"))) == await service.count(fresh=True) == 4


@pytest.mark.parametrize("wrong", [3, None, b"john", ["john"]])
async def test_an_id_is_a_text(world: World, wrong: Any) -> None:
    service = await world.service()
    async with service.lease("gw") as lease, service.watch([]) as watch:
        calls: list[Callable[[], Any]] = [
            lambda: presenced.user(service._link.nats.nc, wrong),
            lambda: service.connect(wrong),
            lambda: service.lease(wrong),
            lambda: lease.connect(wrong),
            lambda: service.watch(["jack", wrong]),
            lambda: watch.add("jack", wrong),
            lambda: watch.remove(wrong),
            lambda: service.get(wrong),
            lambda: service.update(wrong, status="x"),
            lambda: service.upsert([{"id": wrong}]),
            lambda: service.delete([wrong]),
            lambda: service.upsert_channel("team", wrong),
            lambda: service.upsert_channel("team", "a", members=[wrong]),
            lambda: service.delete_channel(wrong, "a"),
            lambda: service.watch_channel("team", wrong),
            lambda: service.watch_channel("team", "a", users=[wrong]),
            lambda: service.explain(wrong),
        ]
        for call in calls:
            with pytest.raises(presenced.Invalid, match="an id is a str"):
                await call()
        assert not watch.ids and not service._hub.slots, "none is added"


@pytest.mark.parametrize("empty", [{}, None])
async def test_a_change_of_nothing_is_acknowledged(world: World, empty: Any) -> None:
    service = await world.service()
    async with service.lease("gw") as lease, service.connect("john", status="x") as connection:
        jack = await lease.connect("jack")

        async def all_of_it() -> None:
            assert (await connection.update(empty)).status == "x"
            await jack.update(empty)
            both = await asyncio.gather(connection.update(status="y"), connection.update(empty))
            assert [me.status for me in both] == ["y", "y"]
            for steps in range(20):  # At each moment of the change before it.
                changing = asyncio.ensure_future(connection.update(status=str(steps)))
                for _ in range(steps + 1):
                    await asyncio.sleep(0)
                assert (await connection.update(empty)).status == str(steps)
                await changing

        await asyncio.wait_for(all_of_it(), 5)


async def test_an_option_is_never_stored_as_a_field(world: World) -> None:
    service, me = await world.service(), await world.user("john")
    async with service.lease("gw") as lease, me.connect() as connection:
        seat = await lease.connect("jack")
        calls: list[Callable[..., Any]] = [
            lambda: me.connect(timeout=3),
            lambda: me.update(timeout=3),
            lambda: service.connect("jack", timeout=3),
            lambda: service.update("jack", timeout=3),
            lambda: connection.update(device="web"),
            lambda: seat.update(idle=True),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="is no option here"):
                await call()
        assert (await connection.update({"timeout": 3})).fields == {"timeout": 3}
