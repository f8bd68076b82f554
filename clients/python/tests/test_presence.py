"""The work of a client on a good day."""

from __future__ import annotations

import asyncio

import pytest
from conftest import Tap, World, same_as_query, until

import presenced
from presenced import _hub


async def next_change(watch: presenced.Watch, kind: str) -> presenced.Change:
    async def find() -> presenced.Change:
        async for change in watch:
            if change.kind == kind:
                return change
        raise AssertionError(f"the watch ended without {kind}")

    return await asyncio.wait_for(find(), 10)


async def test_a_user_is_seen_to_come_and_to_go(world: World) -> None:
    async with await world.user("john") as me, await world.user("jack") as jack:
        async with me.watch(["jack", "nobody"]) as watch:
            assert dict(watch) == {"jack": None, "nobody": None}
            async with jack.connect(status="hello", team="red") as connection:
                assert connection.state == "online"
                change = await next_change(watch, "came")
                assert change.user is not None
                assert (change.user.status, change.before) == ("hello", None)
                assert change.user.fields["team"] == "red"
                own = await connection.update(status=None, name="Jack")
                assert (own.status, own.fields["name"]) == (None, "Jack")
                assert (await next_change(watch, "status")).id == "jack"
            assert connection.state == "closed"
            assert (await next_change(watch, "left")).before is not None
            assert await same_as_query(world, watch)
        assert watch.state == "closed"


async def test_a_connection_lives_by_its_heartbeats(world: World) -> None:
    service = await world.service()
    async with service.watch(["john"]) as watch:
        async with (await world.user("john")).connect():
            await next_change(watch, "came")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(next_change(watch, "left"), 5)
        await next_change(watch, "left")


async def test_a_change_of_oneself_without_an_event_is_shown(world: World) -> None:
    me = await world.user("john")
    await me.update(status="here")
    async with me.watch(["john"]) as watch:
        await me.update(invisible=True, hide_last_active=True)
        john = watch["john"]
        assert john is not None and john.invisible and john.hide_last_active


async def test_an_invisible_user_sees_itself_as_it_is(world: World) -> None:
    service = await world.service()
    me = await world.user("john")
    async with me.connect(invisible=True) as connection, me.watch(["john"]) as watch:
        assert connection.me is not None and connection.me.invisible
        john = watch["john"]
        assert isinstance(john, presenced.Me) and john.online
        other = await service.get("john")
        assert other is not None and not other.online
        await connection.update(invisible=False)
        await until(lambda: isinstance(watch["john"], presenced.Me) and watch["john"].online)
        await connection.update(invisible=True)
        await until(lambda: getattr(watch.get("john"), "invisible", False))
        assert getattr(watch["john"], "online", False)
        await connection.update(status="unseen")  # Without an event.
        assert getattr(watch["john"], "status", "") == "unseen"


async def test_an_invisible_user_sees_that_it_has_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hub, "_OWN_AGAIN", 0.5)
    me = await world.user("ann")
    watch = await me.watch(["ann"])
    async with me.connect(invisible=True):
        await until(lambda: getattr(watch.get("ann"), "online", False))
    await until(lambda: not getattr(watch.get("ann"), "online", False))
    assert watch.state == "live"


async def test_who_is_seen_by_events_is_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hub, "_OWN_AGAIN", 0.05)
    me = await world.user("ann")
    async with me.connect(), me.watch(["ann"]) as watch:
        await until(lambda: getattr(watch.get("ann"), "online", False))
        tap = await Tap.on(world, "presence.v1.query_users.>")
        await asyncio.sleep(0.5)
        assert not tap.bodies


async def test_a_refused_change_is_dropped_and_the_connection_lives(world: World) -> None:
    async with await world.user("john") as me, me.connect() as connection:
        with pytest.raises(presenced.Refused) as caught:
            await connection.update(online=True)
        assert caught.value.field == "online"
        assert (await connection.update(status="x")).status == "x"


async def test_a_connect_that_is_refused_raises(world: World) -> None:
    async with await world.user("john") as me:
        with pytest.raises(presenced.Refused):
            await me.connect(status=17)


async def test_queries_page_by_themselves(world: World) -> None:
    service = await world.service()
    await service.upsert({"id": f"u{number:03}", "n": number} for number in range(250))
    users = await service.users(fresh=True)
    assert [user.id for user in users] == [f"u{number:03}" for number in range(250)]
    backwards = [user.id async for user in service.users(sort={"n": -1}, limit=130)]
    assert backwards == [f"u{number:03}" for number in range(249, 119, -1)]
    assert len(await service.users({"n": {"$gte": 100}})) == 150
    many = await service.get_many([f"u{number:03}" for number in range(260)])
    assert sum(user is not None for user in many.values()) == 250
    assert len(await service.delete(many)) == 250
    assert await service.get("u000") is None


async def test_a_channel_is_watched_by_ten_or_all(world: World) -> None:
    service = await world.service()
    members = [f"m{number:02}" for number in range(25)]
    await service.upsert({"id": id} for id in members)
    channel = await service.upsert_channel("team", "a", {"color": "red"}, members=members)
    assert (channel.cid, channel.member_count) == ("team:a", 25)
    me = await world.user("m00")
    async with me.watch_channel("team", "a") as first:
        assert (first.ids, first.truncated) == (set(members[:10]), True)
        assert first.not_watched == tuple(members[10:])
    lease = await service.lease("gw")
    async with me.watch_channel("team", "a", users="all") as watch:
        assert watch.channel is not None and watch.channel.fields["color"] == "red"
        assert (len(watch), watch.truncated) == (25, False)
        assert all(user is not None for user in watch.values())
        await lease.connect("m24")
        assert (await next_change(watch, "came")).id == "m24"
    assert [c.id for c in await me.channels({"color": "red"})] == ["a"]
    assert await service.delete_channel("team", "a")


async def test_watches_share_subscriptions_and_linger(world: World) -> None:
    nc = await world.connect()
    service = presenced.service(nc)
    before = len(nc._subs)
    first, second = await service.watch(["john"]), await service.watch(["john", "jack"])
    assert len(nc._subs) - before == 3  # Two users, and the inbox of requests.
    await first.close()
    await second.close()
    await asyncio.sleep(0.3)  # Less than the second for which they linger.
    again = await service.watch(["john"])
    assert len(nc._subs) - before == 3
    await until(lambda: len(nc._subs) - before == 2)
    again.add("jill")
    await until(lambda: "jill" in again)
    again.remove("john")
    assert set(again) == {"jill"}
    await service.close()
    assert len(nc._subs) - before == 1
    assert not nc.is_closed


async def test_a_slow_reader_gets_the_newest_state(world: World) -> None:
    service = await world.service()
    async with service.watch(["john"]) as watch:
        for number in range(50):
            await service.update("john", status=str(number))
        await until(lambda: getattr(watch.get("john"), "status", "") == "49")
        change = await next_change(watch, "status")
        assert change.user is not None and change.user.status == "49"
        assert not watch._pending


async def test_foreign_messages_are_dropped_and_counted(world: World) -> None:
    service = await world.service()
    async with service.watch(["john"]) as watch:
        nc = await world.connect()
        for payload in (b"", b"[]", b'{"type":"x"}', b'{"type":"user.presence.changed"}'):
            await nc.publish("user.presence.changed.john", payload)
        await until(lambda: service._hub.dropped == 4)
        assert watch["john"] is None


async def test_the_own_nats_connection_is_closed_with_the_door(world: World) -> None:
    async with presenced.connect(world.url, user="john") as me:
        async with me.connect(status="hello") as connection:
            assert connection.me is not None and connection.me.status == "hello"
        nc = me._owned
    assert nc is not None and nc.is_closed


async def test_who_is_added_is_announced_also_if_others_watch_the_user(world: World) -> None:
    service, others = await world.service(), await world.service()
    await others.update("jack", status="here")
    async with service.watch(["jack"]), service.watch(["john"]) as watch:
        watch.add("jack", "nobody")
        changes = {(await next_change(watch, kind)).id for kind in ("status", "gone")}
        assert changes == {"jack", "nobody"}


async def test_live_waits_for_those_who_were_added(world: World) -> None:
    service, others = await world.service(), await world.service()
    await others.update("jack", status="here")
    async with service.watch(["john"]) as watch:
        watch.add("jack")
        assert watch.state == "live" and "jack" not in watch
        await watch.live()
        assert getattr(watch["jack"], "status", None) == "here"


async def test_a_watch_has_one_reader(world: World) -> None:
    service = await world.service()
    async with service.watch(["john"]) as watch:
        reading = asyncio.ensure_future(watch.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await watch.__anext__()
        await service.update("john", status="x")
        assert (await reading).id == "john"
        cancelled = asyncio.ensure_future(watch.__anext__())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await service.update("john", status="y")
        assert (await asyncio.wait_for(watch.__anext__(), 5)).id == "john"
