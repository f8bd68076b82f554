"""One request of a user at a time, and what needs no turn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from conftest import LEASE, Tap, World, until

import presenced


class Late:
    """Has the first request of an operation reach the daemons late."""

    def __init__(self, door: Any, operation: str) -> None:
        self._once, self._operation = door._calls.once, operation
        self._under_way: asyncio.Future[Any] | None = None
        door._calls.once = self._late

    async def _late(self, operation: str, *arguments: Any) -> Any:
        if operation != self._operation or self._under_way is not None:
            return await self._once(operation, *arguments)

        async def later() -> Any:
            await asyncio.sleep(0.5)
            return await self._once(operation, *arguments)

        self._under_way = asyncio.ensure_future(later())
        return await asyncio.shield(self._under_way)

    async def begins(self) -> None:
        await until(lambda: self._under_way is not None)

    async def ends(self) -> None:
        assert self._under_way is not None
        await self._under_way


@pytest.mark.parametrize("how", ["user", "service", "upsert", "connection", "seat"])
async def test_a_change_that_was_given_up_does_not_win_over_a_later_one(
    world: World, how: str
) -> None:
    door: Any = await (world.user("john") if how == "user" else world.service())

    async def change(status: str) -> None:
        if how == "user":
            await door.update(status=status)
        elif how == "upsert":
            await door.upsert([{"id": "jack"}, {"id": "john", "status": status}])
        else:
            await door.update("john", status=status)

    if how in ("connection", "seat"):
        session = await (door if how == "connection" else await door.lease("gw")).connect("john")
        late = Late(door, "upsert_users" if how == "connection" else "batch")
        first = asyncio.ensure_future(session.update(status="old"))
    else:
        late = Late(door, "upsert_users")
        first = asyncio.ensure_future(change("old"))
    await late.begins()
    if how == "connection":
        closing = asyncio.ensure_future(session.close())
        await asyncio.sleep(0)
    first.cancel()
    await change("new")
    await late.ends()
    john = await (await world.service()).get("john")
    assert john is not None and john.status == "new"
    if how == "connection":
        await closing


async def test_no_heartbeat_waits_for_a_request_of_its_user(world: World) -> None:
    service = await world.service()
    connections = [await service.connect("john", device=f"d{n}") for n in range(4)]
    beats = await Tap.on(world, "presence.v1.heartbeat")
    async with service._calls.turns.held(["john"]):
        update = asyncio.ensure_future(connections[0].update(status="here"))
        await asyncio.sleep(LEASE)
        sent = [body["connection_id"] for body in beats.bodies]
        assert all(sent.count(connection.id) >= 2 for connection in connections), sent
        assert not update.done()
    await update


async def test_an_outage_of_one_daemon_of_several_interrupts_nothing(world: World) -> None:
    service = await world.service()
    once, hangs = service._calls.once, {"john"}

    async def unheard(operation: str, body: Any, *arguments: Any) -> Any:
        if hangs.intersection(("all", body.get("user_id"))):
            await asyncio.sleep(0.3)
            raise presenced.NoAnswer("no answer")
        return await once(operation, body, *arguments)

    john, jack = await service.connect("john"), await service.connect("jack")
    states: list[str] = []

    async def follow() -> None:
        async for step in john.states():
            states.append(step.state)

    following = asyncio.ensure_future(follow())
    service._calls.once = unheard  # type: ignore[method-assign]
    for number in range(30):
        await jack.set_idle(number % 2 == 0)
        await asyncio.sleep(0.1)
    assert states == ["online"] * len(states) and len(states) > 2
    assert john.last_error is not None
    hangs.add("all")
    await until(lambda: john.state == "interrupted")
    hangs.clear()
    await until(lambda: john.state == "online")
    following.cancel()


async def test_a_change_that_makes_a_hidden_user_again_hides_it(world: World) -> None:
    service, other = await world.service(), await world.service()
    lease = await service.lease("gw")
    for number in range(3):
        user = f"john{number}"
        await lease.connect(user, invisible=True, availability="busy")
        tap = await Tap.on(world, f"user.presence.changed.{user}")
        await other.delete([user])
        me = await service.update(user, status="here")
        assert me.invisible and me.availability_choice == "busy" and me.status == "here"

        async def is_back(user: str = user) -> bool:
            return bool((await other.explain(user))["connections"])

        await until(is_back)
        assert not any(body["user"]["online"] for body in tap.bodies), json.dumps(tap.bodies)
