"""Changes that were made while the link was down, of which one is refused."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from conftest import Tap, World, until

import presenced


@pytest.mark.parametrize("seated", [False, True])
async def test_a_refused_change_takes_no_other_with_it(world: World, seated: bool) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    events = await Tap.on(world, "user.presence.changed.john")
    async with service.lease("gw") as lease:
        session: Any = await (lease if seated else service).connect("john")
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        await others.delete(["john"])  # The user would come back visible.
        changes = [{"invisible": True}, {"online": True}, {"status": "here"}, {"x": 1}]
        waiting = [asyncio.ensure_future(session.update(change)) for change in changes]
        await asyncio.sleep(0)
        deleted = len(events.bodies)
        proxy.refuse(False)
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(one, presenced.Refused) for one in done] == [False, True, False, False]
        await session.update({"y": 2})
        john = (await others.users({"id": "john"}, seen_by="john", fresh=True))[0]
        assert (john.status, john.fields["x"], john.online) == ("here", 1, True)
        assert not any(body["user"]["online"] for body in events.bodies[deleted:])
        await session.close()


@pytest.mark.parametrize("seated", [False, True])
async def test_values_that_later_ones_replaced_are_hardly_shown(world: World, seated: bool) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    events = await Tap.on(world, "user.presence.changed.john")
    async with service.lease("gw") as lease:
        session: Any = await (lease if seated else service).connect("john")
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        before = len(events.bodies)
        changes: list[dict[str, Any]] = [{"status": f"old {number}"} for number in range(100)]
        changes += [{"online": True}, {"status": "newest"}]
        waiting = [asyncio.ensure_future(session.update(change)) for change in changes]
        await asyncio.sleep(0)
        proxy.refuse(False)
        done = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [isinstance(one, presenced.Refused) for one in done]
        assert refused == [False] * 100 + [True, False]
        john = await others.get("john")
        assert john is not None and john.status == "newest"
        assert len(events.bodies) - before < 20
        await session.close()


@pytest.mark.parametrize("seated", [False, True])
async def test_who_has_a_change_connects_before_the_others_of_the_user(
    world: World, seated: bool
) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    events = await Tap.on(world, "user.presence.changed.john")
    async with service.lease("gw") as lease:
        sessions: list[Any] = [
            await (lease if seated else service).connect("john") for _ in range(3)
        ]
        proxy.refuse(True)
        await until(lambda: lease.state == "interrupted" and not service._link.is_up)
        await others.delete(["john"])
        lease._move(relapsed=True)  # As after an answer that comes just before the loss.
        hiding = asyncio.ensure_future(sessions[-1].update(invisible=True))
        await asyncio.sleep(0)
        deleted = len(events.bodies)
        proxy.refuse(False)
        await hiding
        await until(lambda: lease.held == len(lease.seats))
        await until(lambda: all(c.state == "online" for c in service._connections))
        john = (await others.users({"id": "john"}, seen_by="john", fresh=True))[0]
        assert isinstance(john, presenced.Me) and john.invisible and john.online
        assert not any(body["user"]["online"] for body in events.bodies[deleted:])


@pytest.mark.parametrize("seated", [False, True])
async def test_a_refused_device_is_wanted_no_longer(world: World, seated: bool) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.lease("gw") as lease:
        opens: Any = lease if seated else service
        session: Any = await opens.connect("john", device="desktop")
        with pytest.raises(presenced.Refused):
            await session.set_device("x" * 5000)
        connects = await Tap.on(world, "presence.v1.batch" if seated else "presence.v1.connect")
        proxy.cut()
        if seated:
            lease._move(relapsed=True)
        await until(lambda: connects.sent)
        body = connects.bodies[0]["ops"][0] if seated else connects.bodies[0]
        assert body["device"] == "desktop"
        await session.update(status="here")
        await session.close()


async def test_a_device_refused_in_a_connect_takes_no_change_with_it(world: World) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.connect("john", device="desktop") as connection:
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        wanted = [connection.set_device("x" * 5000), connection.update(status="here")]
        waiting = [asyncio.ensure_future(one) for one in wanted]
        await asyncio.sleep(0)
        proxy.refuse(False)
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(done[0], presenced.Refused)
        assert isinstance(done[1], presenced.Me) and done[1].status == "here"
        await connection.set_idle(True)
        await until(lambda: connection.state == "online")


async def test_a_connection_goes_on_where_its_user_may_hide_no_longer(world: World) -> None:
    proxy = await world.proxy()
    me = await world.user("john", proxy.url)
    async with me.connect(invisible=True, status="here") as connection:
        proxy.refuse(True)
        await until(lambda: connection.state == "interrupted")
        world.kill_daemon(world.daemons[0])
        world.settings["users.allow_invisible"] = "false"
        world.start_daemon()
        await world.ready()
        proxy.refuse(False)
        await until(lambda: connection.state != "interrupted")
        assert connection.state == "online"
        assert (await connection.update(x=1)).status == "here"


@pytest.mark.parametrize("kind", ["connection", "own", "seat", "service", "user"])
async def test_a_refused_field_is_named_as_it_was_given(world: World, kind: str) -> None:
    service, me = await world.service(), await world.user("ann")
    async with service.lease("gw") as lease:
        seat = await lease.connect("jack")
        update: Any = {
            "connection": (await service.connect("john")).update,
            "own": (await me.connect()).update,
            "seat": seat.update,
            "service": partial(service.update, "jill"),
            "user": me.update,
        }[kind]
        others = [lease.connect(f"u{number}") for number in range(3)]
        changing = update({"online": True})
        results = await asyncio.gather(*others, changing, return_exceptions=True)
        error = results[-1]
        assert isinstance(error, presenced.Refused)
        assert (error.field, error.details["field"]) == ("online", "online")
        assert "`online`" in str(error)


@pytest.mark.parametrize("seated", [False, True])
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"fields": {"status": 3}}, "status"),
        ({"defaults": {"status": 3}}, "defaults.status"),
        ({"device": "no device"}, "device"),
    ],
)
async def test_what_a_connect_refuses_is_named_as_it_was_given(
    world: World, seated: bool, given: dict[str, Any], field: str
) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        opener: Any = lease if seated else service
        with pytest.raises(presenced.Refused) as caught:
            await opener.connect("john", **given)
        assert caught.value.field == field


@pytest.mark.parametrize("seated", [False, True])
async def test_changes_of_an_outage_do_not_grow(world: World, seated: bool) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    async with service.lease("gw") as lease:
        session: Any = await (lease if seated else service).connect("john", x=0)
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        for number in range(200):
            for change in ({"status": f"{number}"}, {"x": number}, {"y": number, "x": 1}):
                with pytest.raises(presenced.Disconnected):
                    await session.update(change, timeout=0)
        assert len(session._desired._changes) <= 3
        proxy.refuse(False)
        await session.update(z=1)
        john = await others.get("john")
        assert john is not None and john.status == "199"
        assert john.fields == {"x": 1, "y": 199, "z": 1}
        await session.close()


@pytest.mark.parametrize("seated", [False, True])
async def test_who_is_refused_after_a_connect_without_an_answer_is_disconnected(
    world: World, monkeypatch: pytest.MonkeyPatch, seated: bool
) -> None:
    service, others = await world.service(), await world.service()
    once, tries = service._calls.once, 0

    async def lossy(operation: str, body: Any, *options: Any) -> Any:
        """The answer of the first connect is lost, the second is refused."""
        nonlocal tries
        if operation not in ("batch", "connect") or tries > 1:
            return await once(operation, body, *options)
        tries += 1
        connect = body["ops"][0] if seated else body
        if tries > 1:
            connect["user"]["status"] = 17
            return await once(operation, body, *options)
        await once(operation, body, *options)
        raise presenced.NoAnswer("lost")

    monkeypatch.setattr(service._calls, "once", lossy)
    async with service.lease("gw") as lease:
        with pytest.raises(presenced.Refused) as caught:
            await (lease if seated else service).connect("john")
        assert caught.value.field == "status" and tries == 2
        monkeypatch.undo()
        await until(partial(_is_offline, others, "john"), 2.5)  # Before a lease could lapse.


async def _is_offline(service: presenced.Service, id: str) -> bool:
    user = await service.get(id)
    return user is None or not user.online
