"""Errors of calls: answers that are not the contract's, and one failure that many wait for."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable
from typing import Any, Callable

import nats
import pytest
from conftest import World, until

import presenced


async def answering(bare: World, body: bytes) -> presenced.Service:
    """A service whose requests are all answered alike."""
    bare.start_nats()

    async def connects() -> Any:
        try:
            return await bare.connect()
        except (OSError, nats.errors.Error):
            return None

    nc = await until(connects)

    async def answer(message: Any) -> None:
        await message.respond(body)

    await nc.subscribe("presence.v1.*", cb=answer)
    await nc.flush()
    return await bare.service()


CALLS: dict[str, Callable[[presenced.Service], Awaitable[Any]]] = {
    "get": lambda service: service.get("john"),
    "users": lambda service: service.users(),
    "count": lambda service: service.count(),
    "channels": lambda service: service.channels(),
    "upsert": lambda service: service.upsert([{"id": "john"}]),
    "update": lambda service: service.update("john", status="x"),
    "delete": lambda service: service.delete(["john"]),
    "delete_where": lambda service: service.delete_where({"online": False}),
    "upsert_channel": lambda service: service.upsert_channel("team", "a"),
    "watch_where": lambda service: service.watch_where({}),
}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"users":{},"error":7}', b'{"error":{}}'])
async def test_an_answer_that_is_not_the_contracts_is_malformed(bare: World, body: bytes) -> None:
    service = await answering(bare, body)
    for name, call in CALLS.items():
        with pytest.raises(presenced.Malformed) as caught:
            await asyncio.wait_for(call(service), 5)
        assert not caught.value.retryable and caught.value.may_have_applied, name


async def test_a_write_that_is_answered_without_its_user_is_malformed(bare: World) -> None:
    service = await answering(bare, b'{"users":{}}')
    with pytest.raises(presenced.Malformed, match="without 'john'"):
        await service.update("john", status="x")
    async with presenced.user(service._link.nats.nc, "john") as me:
        me._calls = service._calls
        with pytest.raises(presenced.Malformed, match="without 'john'"):
            await me.update(status="x")


async def test_deleting_by_a_filter_ends(bare: World) -> None:
    service = await answering(bare, b'{"deleted":[],"more":true}')
    with pytest.raises(presenced.Malformed, match="deletes none"):
        await asyncio.wait_for(service.delete_where({"online": False}), 5)


async def test_a_connect_that_is_answered_without_its_user_is_malformed(bare: World) -> None:
    service = await answering(bare, b'{"connection_id":"c"}')
    async with service.connect("john") as connection:
        with pytest.raises(presenced.Malformed):
            await connection.update()


async def test_each_who_waits_gets_an_error_of_its_own(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        for session in (await service.connect("john"), await lease.connect("jack")):
            waiting = [asyncio.ensure_future(session.update(status=17 * "x" * 100))]
            waiting += [asyncio.ensure_future(session.set_idle(True)) for _ in range(3)]
            await session.close()
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            failed = [error for error in errors if isinstance(error, presenced.PresenceError)]
            assert len({id(error) for error in failed}) == len(failed) >= 3
    watch = await service.watch(["john"])
    await service._link.nats.nc.close()
    await until(lambda: watch.state == "closed")
    lines = []
    for _ in range(3):
        with pytest.raises(presenced.Closed) as caught:
            await watch.live()
        assert caught.value is not watch.last_error
        assert str(caught.value) == str(watch.last_error)
        lines.append(len(traceback.format_exception(None, caught.value, caught.tb)))
    assert len(set(lines)) == 1, "a traceback grows"


async def test_a_refusal_stands_once_in_a_traceback(world: World) -> None:
    service = await world.service()
    connection = await service.connect("john")
    async with service.lease("gw") as lease:
        seat = await lease.connect("jack")
        calls: list[Callable[[], Any]] = [
            lambda: connection.update(online=True),
            lambda: seat.update(online=True),
            lambda: service.connect("jill", online=True),
            lambda: lease.connect("jill", online=True),
            lambda: service.update("jill", online=True),
        ]
        for call in calls:
            with pytest.raises(presenced.Refused) as caught:
                await call()
            text = "".join(traceback.format_exception(None, caught.value, caught.tb))
            assert text.count("presenced.errors.Refused: ") == 1


async def test_a_seat_that_is_closed_says_why(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        seat = await lease.connect("john")
        await seat.close()
        with pytest.raises(presenced.Closed):
            await seat.update(status="x")
        failed = await lease.connect("jack")
        lease._fail_seats([failed], presenced.Closed("a fault"))
        with pytest.raises(presenced.Closed) as caught:
            await failed.update(status="x")
        assert "a fault" in str(caught.value.__cause__)
