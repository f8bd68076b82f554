"""Events between a request and its answer, and what is left then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Tap, World, until
from nats.errors import SlowConsumerError

import presenced
from presenced import _everyone_watch
from presenced._link import LinkEvent


async def test_a_batch_that_was_applied_without_an_answer_does_not_move_the_lease(
    world: World,
) -> None:
    service = await world.service()
    beats = await Tap.on(world, "presence.v1.heartbeat")
    async with service.lease("gw") as lease:
        await lease.connect("anna")
        name, once = lease.name, service._calls.once

        async def unheard(operation: str, *arguments: Any) -> Any:
            answer = await once(operation, *arguments)
            if operation == "batch" and len(beats.sent) < 5:
                details = {"retry_after_ms": 1500}
                raise presenced.Busy("applied, all the same", details=details)
            return answer

        service._calls.once = unheard  # type: ignore[method-assign]
        beats.sent.clear()
        await asyncio.gather(*(lease.connect(f"u{n}", timeout=60) for n in range(5)))
        await until(lambda: lease.held == 6)
        assert lease.name == name


async def test_a_change_of_an_invisible_user_whose_record_is_deleted_does_not_show_it(
    world: World,
) -> None:
    service = await world.service()
    events = await Tap.on(world, "user.presence.changed.*")
    async with service.lease("gw") as lease, service.connect("john", invisible=True) as connection:
        seat = await lease.connect("jane", invisible=True)
        await service.delete(["john", "jane"])
        await connection.update(mood="quiet")
        assert connection.me is not None and connection.me.invisible
        await seat.update(mood="quiet")
        for id in ("john", "jane"):
            user = await service.get(id)
            assert user is not None
            assert (user.online, user.fields["mood"]) == (False, "quiet")
        assert lease.held == 1
    assert all(not event["user"]["online"] for event in events.bodies)


async def test_dropped_messages_lead_to_a_resync(world: World) -> None:
    async with presenced.connect(world.url) as service, service.watch(["john"]) as watch:
        slot = service._hub.slot("john")
        assert slot is not None and slot.sub is not None
        doubts: list[LinkEvent] = []
        service._link.listeners.append(doubts.append)
        for _ in range(1000):
            service.observe(SlowConsumerError(slot.subject, "", slot.sub._id, slot.sub))
        assert watch.state == "stale"
        assert doubts == [LinkEvent.DOUBT]
        await until(lambda: len(doubts) == 2)  # What was dropped after the first is not forgotten.
        await until(lambda: watch.state == "live")


async def test_messages_that_the_application_drops_are_no_concern(world: World) -> None:
    async with presenced.connect(world.url) as service, service.watch(["john"]) as watch:
        sub = await service._link.nats.nc.subscribe("other")
        service.observe(SlowConsumerError("other", "", sub._id, sub))
        await asyncio.sleep(0)
        assert watch.state == "live"


async def test_a_watch_of_a_filter_is_stale_until_the_filter_was_asked_again(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    filter: presenced.UserFilter = {"online": True}
    async with service.watch_where(filter) as watch, others.connect("john"):
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        await until(lambda: watch.state == "stale")
        proxy.refuse(False)
        await watch.live()
        assert set(watch) == {"john"}


async def test_nothing_begins_while_a_service_closes(world: World) -> None:
    service = await world.service()
    await service.connect("anna")
    once, goodbye = service._calls.once, asyncio.Event()

    async def slow(operation: str, *arguments: Any) -> Any:
        if operation == "disconnect":
            await goodbye.wait()
        return await once(operation, *arguments)

    service._calls.once = slow  # type: ignore[method-assign]
    closing = asyncio.ensure_future(service.close())
    await asyncio.sleep(0)
    beginning: list[Any] = [
        service.watch(["john"]),
        service.watch_where({"online": True}),
        service.watch_all(),
        service.connect("john"),
        service.lease("gw"),
    ]
    for begins in beginning:
        with pytest.raises(presenced.Closed):
            await asyncio.wait_for(begins, 5)
    goodbye.set()
    await closing


async def test_what_a_closing_hub_holds_ends(world: World) -> None:
    service = await world.service()
    watch = await service.watch(["john"])
    service._watches.clear()
    await service.close()
    assert watch.state == "closed"


async def test_a_connect_answered_as_the_link_drops_tells_who_waits(world: World) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.connect("john") as connection:
        once, connects = service._calls.once, 0

        async def dropping(operation: str, *arguments: Any) -> Any:
            nonlocal connects
            answer = await once(operation, *arguments)
            if operation == "connect":
                connects += 1
                if connects == 1:
                    proxy.refuse(True)
                    await until(lambda: not service._link.is_up)
            return answer

        service._calls.once = dropping  # type: ignore[method-assign]
        proxy.refuse(True)
        await until(lambda: connection.state == "interrupted")
        waiting = asyncio.ensure_future(connection.update(status="here"))
        await asyncio.sleep(0)
        proxy.refuse(False)
        assert (await asyncio.wait_for(waiting, 5)).status == "here"
        assert connection.state == "interrupted"
        proxy.refuse(False)
        await until(lambda: connection.state == "online")
        assert connects == 2


async def test_a_lagging_reader_of_everyone_is_told_who_is_gone(world: World) -> None:
    service, others = await world.service(), await world.service()
    await others.update("john", status="here")
    async with service.watch_all() as watch:
        await others.delete(["john"])
        await until(lambda: watch["john"] is None)
        await watch._ask()  # As twice after a loss.
        await watch._ask()
        assert "john" not in watch
        assert (await asyncio.wait_for(watch.__anext__(), 5)).kind == "gone"
        assert not watch._shown


async def test_audits_of_all_go_round_page_by_page_and_find_a_deletion(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_everyone_watch, "_PAGE", 2)
    service, others = await world.service(), await world.service()
    ids = [f"u{n}" for n in range(6)]
    await others.upsert({"id": id} for id in ids)
    queries = await Tap.on(world, "presence.v1.query_users")
    async with service.watch_all() as watch:
        assert watch._sub is not None
        await service._link.nats.nc._send_unsubscribe(watch._sub._id)  # The server forgets it.
        await service._link._round_trip()
        await others.delete(["u2"])
        queries.sent.clear()
        found = [await watch._audit() for _ in range(4)]
        assert found == [False, True, False, False]
        filters = [body.get("filter") for body in queries.bodies]
        assert filters == [None, {"id": {"$gt": "u1"}}, {"id": {"$gt": "u4"}}, None]
        assert watch["u2"] is None


async def test_an_update_that_is_tried_again_keeps_no_heartbeat_waiting(world: World) -> None:
    me = await world.user("john")
    beats = await Tap.on(world, "presence.v1.heartbeat.john")
    async with me.connect() as connection:
        once = me._calls.once

        async def busy(operation: str, *arguments: Any) -> Any:
            if operation == "upsert_users":
                raise presenced.Busy("busy", details={"retry_after_ms": 4000})
            return await once(operation, *arguments)

        me._calls.once = busy  # type: ignore[method-assign]
        updating = asyncio.ensure_future(me.update(status="here"))
        beats.sent.clear()
        await until(lambda: len(beats.sent) >= 3, 8)
        assert not updating.done() and connection.state == "online"
        updating.cancel()


async def test_the_goodbye_does_not_wait_for_ever(world: World) -> None:
    me = await world.user("john")
    connection = await me.connect()
    async with me._calls.turns.held(["john"]):
        await asyncio.wait_for(connection.close(), 3)
    assert connection.state == "closed"


async def test_the_end_of_an_old_lease_keeps_no_seat_waiting(world: World) -> None:
    service = await world.service()
    async with service.lease("gw") as lease:
        await lease.connect("anna")
        once, asked = service._calls.once, asyncio.Event()

        async def unheard(operation: str, body: Any, *arguments: Any) -> Any:
            if operation == "disconnect" and "lease" in body and not asked.is_set():
                asked.set()
                await asyncio.sleep(2.5)
                raise presenced.NoAnswer("no answer")
            return await once(operation, body, *arguments)

        service._calls.once = unheard  # type: ignore[method-assign]
        lease._old.add(lease.name)
        lease._move(relapsed=False)
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.wait_for(lease.connect("john"), 1)
        ends = await Tap.on(world, "presence.v1.disconnect")
        await until(lambda: ends.sent)
        await until(lambda: not lease._ending)
        assert lease.held == 2


@pytest.mark.parametrize("seated", [False, True])
async def test_a_change_while_nats_is_away_is_told_so(world: World, seated: bool) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.lease("gw") as lease:
        session: Any = await (lease if seated else service).connect("john")
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        with pytest.raises(presenced.Disconnected):
            await session.update(status="here", timeout=0.2)
        proxy.refuse(False)
        await session.update(status="there")
        await session.close()
