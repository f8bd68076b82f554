"""The failure matrix: cut and silent links, daemons and NATS killed, permissions refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from typing import Any

import pytest
from conftest import LEASE, Log, World, permitted, same_as_query, until

import presenced


async def test_a_cut_link_is_noticed_by_nobody(world: World) -> None:
    proxy = await world.proxy()
    others = await world.service()
    me = await world.user("john", proxy.url)
    async with me.connect(status="x") as connection, me.watch(["jack"]) as watch:
        async with others.watch(["john"]) as john:
            log = Log(john)
            for _ in range(5):
                online, live = connection.since, watch.since
                proxy.cut()
                await until(
                    lambda online=online, live=live: (
                        connection.since > online and watch.since > live
                    )
                )
                await others.update("jack", status=str(random.random()))
                await until(lambda: connection.state == "online" and watch.state == "live")
                assert await same_as_query(world, watch)
        await log.task
        assert log.seen("came", "left") == 0


async def test_a_change_made_while_the_link_is_down_rides_in_the_connect(world: World) -> None:
    proxy = await world.proxy()
    me = await world.user("john", proxy.url)
    async with me.connect() as connection:
        proxy.refuse(True)
        await until(lambda: connection.state == "interrupted")
        waiting = asyncio.ensure_future(connection.update(status="a", name="John"))
        await asyncio.sleep(0)
        with pytest.raises(presenced.PresenceError) as caught:
            await connection.update(status="b", timeout=0.2)
        assert caught.value.retryable
        proxy.refuse(False)
        own = await waiting
        assert (own.status, own.fields["name"]) == ("b", "John")
        service = await world.service()
        await service.update("john", status="another device")
        online = connection.since
        proxy.cut()
        await until(lambda: connection.since > online and connection.state == "online")
        john = await service.get("john")
        assert john is not None and john.status == "another device"


async def test_what_is_under_way_when_the_link_breaks_fails_at_once_or_is_sent_again(
    world: World,
) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.connect("john") as connection:
        proxy.black_hole_now()
        asking = asyncio.ensure_future(service._calls.once("query_users", {}, 60))
        changing = asyncio.ensure_future(connection.update(status="x", timeout=60))
        await until(lambda: len(service._link._calls) == 2)
        proxy.cut()
        with pytest.raises(presenced.Disconnected) as caught:
            await asyncio.wait_for(asking, 2)
        assert caught.value.may_have_applied and caught.value.retryable
        assert (await changing).status == "x"


async def test_a_refusal_is_waited_for_behind_the_subscription(world: World) -> None:
    """nats-py writes a PING at once, but subscriptions when its flusher comes to it."""
    nc = await world.connect()
    written: list[bytes] = []
    assert nc._transport is not None
    write, writelines = nc._transport.write, nc._transport.writelines
    nc._transport.write = lambda data: (written.append(data), write(data))  # type: ignore
    nc._transport.writelines = lambda lines: (written.extend(lines), writelines(lines))  # type: ignore
    async with presenced.service(nc) as service, service.watch(["john"]):
        wire = b"".join(written)
        assert 0 <= wire.index(b"SUB user.presence.changed.john") < wire.index(b"PING")


async def test_a_silent_link_is_left(world: World) -> None:
    proxy = await world.proxy()
    others = await world.service()
    me = await world.user("john", proxy.url)
    async with me.connect() as connection, me.watch(["jack"]) as watch:
        began = time.monotonic()
        proxy.black_hole_now()
        await others.update("jack", status="news")
        await until(lambda: connection.state == "interrupted")
        assert time.monotonic() - began < 1 + 2 * 2.5 + 1.5
        await until(lambda: connection.state == "online" and watch.state == "live")
        assert await same_as_query(world, watch)
        await until(lambda: getattr(watch["jack"], "status", None) == "news")


async def test_closing_on_a_silent_link_leaves_the_connection_usable(world: World) -> None:
    proxy = await world.proxy()
    nc = await world.connect(proxy.url)
    me = presenced.user(nc, "john")
    connection = await me.connect()
    proxy.black_hole_now()
    await until(lambda: connection.last_error is not None)
    probing = asyncio.ensure_future(me._link.probe.run())
    await asyncio.sleep(0.1)  # The PING is under way.
    await me.close()
    forced = me._link.probe.forced
    await until(probing.done)
    assert me._link.probe.forced == forced
    reconnects = nc.stats["reconnects"]
    proxy.pass_on_again()
    service = presenced.service(nc)
    assert await service.get("john") is not None
    assert nc.stats["reconnects"] == reconnects
    await service.close()


async def test_daemons_are_killed_and_rolled(world: World) -> None:
    service, others = await world.service(), await world.service()
    first, second = world.daemons[0], world.start_daemon()
    await until(lambda: _daemons(world, 2))
    async with others.watch([f"u{n}" for n in range(20)]) as watch, service.lease("gw") as lease:
        log = Log(watch)
        await asyncio.gather(*(lease.connect(f"u{n}") for n in range(20)))
        single = await service.connect("u0")
        await until(lambda: log.seen("came") == 20)
        # A daemon that has been up for less than a lease judges nobody.
        await asyncio.sleep(LEASE)
        for daemon, how in ((first, signal.SIGKILL), (second, signal.SIGTERM)):
            world.start_daemon()
            await until(lambda: _daemons(world, 3))
            world.kill_daemon(daemon, how)
            await asyncio.gather(*(service.update(f"u{n}", status=str(how)) for n in range(20)))
            await until(lambda: _daemons(world, 2))
        assert single.state == "online"
        await until(lambda: same_as_query(world, watch))
    await log.task
    assert log.seen("left", "gone") == 0


async def _daemons(world: World, number: int) -> bool:
    nc = await world.connect()
    inbox = nc.new_inbox()
    sub = await nc.subscribe(inbox)
    await nc.publish("$SRV.PING.presence", b"", reply=inbox)
    found = 0
    try:
        while True:
            await sub.next_msg(0.3)
            found += 1
    except Exception:
        return found == number
    finally:
        await nc.close()


async def test_without_a_daemon_the_picture_stays(world: World) -> None:
    service = await world.service()
    async with service.watch(["john"]) as watch, service.connect("john") as connection:
        await until(lambda: watch["john"] is not None)
        world.kill_daemon(world.daemons[0])
        await until(lambda: connection.last_error is not None)
        assert isinstance(connection.last_error, (presenced.NoDaemon, presenced.NoAnswer))
        await until(lambda: isinstance(connection.last_error, presenced.NoDaemon))
        assert service._link.probe.forced == 0
        assert watch["john"] is not None
        call = asyncio.ensure_future(service.get("john"))
        world.start_daemon()
        assert (await call) is not None
        await until(lambda: connection.state == "online" and connection.last_error is None)
        await until(lambda: same_as_query(world, watch))


async def test_a_call_without_a_daemon_fails_at_its_deadline(bare: World) -> None:
    bare.start_nats()

    async def connects() -> Any:
        try:
            return await bare.connect()
        except OSError:
            return None

    nc = await until(connects)
    service = presenced.service(nc)
    with pytest.raises(presenced.NoDaemon):
        await service._calls.call("query_users", {}, 1.0)
    await service.close()


async def test_nats_is_away_for_more_than_a_lease(world: World) -> None:
    service, others = await world.service(), await world.service()
    async with others.watch([f"u{n}" for n in range(20)]) as watch, service.lease("gw") as lease:
        log = Log(watch)
        await asyncio.gather(*(lease.connect(f"u{n}") for n in range(20)))
        await until(lambda: log.seen("came") == 20)
        world.kill_nats()
        await until(lambda: lease.state == "interrupted" and watch.state == "stale")
        await asyncio.sleep(LEASE + 1)
        assert len(watch) == 20
        world.start_nats()
        await until(lambda: lease.state == "online" and watch.state == "live", 30)
        await until(lambda: same_as_query(world, watch))
        await until(lambda: lease.held == 20)
        assert all(user is not None and user.online for user in watch.values())
    await log.task
    assert log.seen("left", "gone") == 0


async def test_an_unknown_connection_connects_again_and_stays_invisible(world: World) -> None:
    service = await world.service()
    async with service.watch(["john"]) as watch:
        log = Log(watch)
        me = await world.user("john")
        async with me.connect(invisible=True, name="John") as connection:
            id = connection.id
            await service.delete(["john"])
            statuses = connection.states()
            async for status in statuses:
                if status.relapsed:
                    break
            assert status.state == "online" and status.recreated
            assert connection.id == id
            assert connection.me is not None and connection.me.invisible
        assert log.seen("came") == 0
    await log.task


async def test_the_51st_connection_is_refused(bare: World) -> None:
    bare.settings["limits.connections_per_user"] = "1"
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    me = await bare.user("john")
    async with me.connect(), me.watch(["jack"]) as watch:
        with pytest.raises(presenced.Refused) as caught:
            await me.connect()
        assert caught.value.code == "limit_exceeded"
        assert watch.state == "live"


async def test_the_end_of_the_nats_connection_ends_all(world: World) -> None:
    nc = await world.connect()
    service = presenced.service(nc)
    connection = await service.connect("john")
    lease = await service.lease("gw")
    await lease.connect("jack")
    watch = await service.watch(["john"])
    await nc.close()
    await until(lambda: connection.state == lease.state == "closed" and watch.state == "closed")
    with pytest.raises(presenced.Closed):
        await service.get("john")
    with pytest.raises(presenced.Closed):
        await connection.update(status="x")
    await service.close()


@pytest.mark.parametrize("ended", ["client", "nats"])
@pytest.mark.parametrize("used", [False, True])
async def test_nothing_begins_after_the_end(world: World, ended: str, used: bool) -> None:
    nc = await world.connect()
    service = presenced.service(nc)
    world.clients.append(service)
    if used:
        await service.watch(["known"])
    await (service if ended == "client" else nc).close()
    beginnings: list[Any] = [
        lambda: service.watch(["known"]),
        lambda: service.watch(["new"]),
        lambda: service.watch_where({}),
        lambda: service.watch_all(),
        lambda: service.watch_channel("messaging", "x"),
        lambda: service.connect("john"),
        lambda: service.lease("gw"),
        lambda: service.get("john"),
    ]
    for begin in beginnings:

        async def begun(begin: Any = begin) -> None:
            await begin()

        with pytest.raises(presenced.Closed):
            await asyncio.wait_for(begun(), 3)


@pytest.mark.parametrize("everyone", [False, True])
async def test_who_only_watches_leaves_a_silent_link(
    world: World, monkeypatch: pytest.MonkeyPatch, everyone: bool
) -> None:
    monkeypatch.setattr("presenced._probe._SILENCE", 1.0)
    proxy = await world.proxy()
    service, others = await world.service(proxy.url, audit=None), await world.service()
    await others.update("jack")
    async with service.watch_all() if everyone else service.watch(["jack"]) as watch:
        proxy.black_hole_now()
        await others.update("jack", status="news")
        await until(lambda: getattr(watch["jack"], "status", None) == "news", 1 + 2 * 2.5 + 3)


async def test_refused_subjects_are_named(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.jack"')
    nc = await bare.connect(user="john", password="j")
    async with presenced.user(nc, "john") as me:
        began = time.monotonic()
        with pytest.raises(presenced.Denied) as caught:
            await me.count()
        assert caught.value.subject == "presence.v1.count_users.john"
        with pytest.raises(presenced.Denied):
            await me.watch(["jill"])
        assert time.monotonic() - began < 2
        async with me.watch(["a", "jack", "b", "c"]) as watch:
            assert (set(watch), watch.denied) == ({"jack"}, {"a", "b", "c"})
            assert watch.state == "live"


async def test_a_refused_query_denies_the_watch(bare: World) -> None:
    await permitted(bare, deny='"presence.v1.query_users.john"')
    nc = await bare.connect(user="john", password="j")
    async with presenced.user(nc, "john") as me:
        with pytest.raises(presenced.Denied) as caught:
            await me.watch(["john"])
        assert caught.value.subject == "presence.v1.query_users.john"
        async with me.connect(status="x") as connection:
            assert connection.state == "online"


async def test_a_permission_that_is_granted_later_counts_after_a_reconnect(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.jack"')
    nc = await bare.connect(user="john", password="j")
    async with presenced.user(nc, "john") as me, me.watch(["jack", "jill"]) as watch:
        assert watch.denied == {"jill"}
        assert bare.config is not None
        text = bare.config.read_text()
        bare.config.write_text(text.replace("changed.jack", "changed.*"))
        bare.kill_nats()
        bare.start_nats()
        await until(lambda: watch.denied == set() and watch.state == "live" and "jill" in watch, 30)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("own", [False, True])
async def test_a_permission_to_see_that_is_withdrawn_denies(
    bare: World, own: bool, restart: bool
) -> None:
    await permitted(bare, see='"user.presence.changed.jack"')
    async with contextlib.AsyncExitStack() as stack:
        if own:
            url = bare.url.replace("//", "//john:j@")
            me = await stack.enter_async_context(presenced.connect(url, user="john"))
        else:
            nc = await bare.connect(user="john", password="j")
            me = await stack.enter_async_context(presenced.user(nc, "john"))
        watch = await stack.enter_async_context(me.watch(["jack"]))
        assert watch.state == "live" and bare.config is not None and bare.nats is not None
        allowed = bare.config.read_text()
        bare.config.write_text(allowed.replace("changed.jack", "changed.x"))
        if restart:
            bare.kill_nats()
            bare.start_nats()
        else:
            bare.nats.send_signal(signal.SIGHUP)
        await until(lambda: watch.state == "denied", 30)
        assert watch.denied == {"jack"} and "jack" not in watch


async def test_the_audit_finds_events_that_do_not_arrive(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url, audit=1.0), await world.service()
    async with service.watch(["john"]) as watch:
        slot = service._hub.slot("john")
        assert slot is not None and slot.sub is not None
        await service._link.nats.nc._send_unsubscribe(slot.sub._id)  # The server forgets it.
        await service._link._round_trip()
        await others.update("john", status="unheard")
        await until(lambda: getattr(watch["john"], "status", "") == "unheard")
        await until(lambda: watch.degraded)
        assert "permission" in str(watch.degraded)
        assert service._hub.missed == 1
        proxy.cut()  # All is subscribed to again.
        await until(lambda: watch.degraded is None)


async def test_a_login_that_may_hear_no_answers_is_told_so(bare: World) -> None:
    await permitted(bare)
    assert bare.config is not None
    allowed = bare.config.read_text()
    bare.config.write_text(allowed.replace('"_INBOX.>", ', ""))
    bare.kill_nats()
    bare.start_nats()
    await bare.ready(user="admin", password="a")
    me = await bare.user("john", bare.url.replace("//", "//john:j@"))
    for _ in range(2):
        calls: list[Any] = [me.get("jack"), me.update(x=1), me.connect()]
        for call in calls:
            with pytest.raises(presenced.Denied) as caught:
                await asyncio.wait_for(call, 2)
            assert caught.value.subject.startswith("_inbox.")
    bare.config.write_text(allowed)
    bare.kill_nats()
    bare.start_nats()
    await until(lambda: not me._link.is_up)
    assert await me.get("jack") is None
