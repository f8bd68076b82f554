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
            with pytest.raises(TypeError, match=words):
                make("u9", **named)
        if "x" in named:
            for session in (seat, connection):
                with pytest.raises(TypeError, match=words):
                    await session.update(**named)
        if "device" in named:
            with pytest.raises(TypeError, match=words):
                await connection.set_device(**named)
        if "idle" in named:
            with pytest.raises(TypeError, match=words):
                await seat.set_idle(**named)
        with pytest.raises(ValueError, match="x: JSON has no nan"):
            await connection.update(x=float("nan"))
        assert (await connection.update(status="here")).status == "here"
        await seat.update(status="here")
        assert lease.held == 1


async def test_an_unforeseen_error_of_a_batch_is_that_of_its_seats(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        jack = await lease.connect("jack")
        operation = lease._operation

        def failing(seat: presenced.Seat) -> dict[str, Any]:
            if seat.user_id == "u9" and not seat._closing:
                raise RuntimeError("unforeseen")
            return operation(seat)

        lease._operation = failing  # type: ignore[method-assign]
        with pytest.raises(presenced.Closed, match="unforeseen"):
            await asyncio.wait_for(lease.connect("u9")._open(), 5)
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
