"""Watches that find their users: those who match, and all."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from conftest import Tap, World, permitted, same_as_query, until

import presenced


def named(id: str, team: str) -> dict[str, str]:
    return {"id": id, "team": team}


async def test_those_who_match_come_and_go_with_what_they_are(world: World) -> None:
    service = await world.service()
    await service.upsert([named("ann", "red"), named("bob", "red"), named("cid", "blue")])
    async with service.connect("ann") as ann:
        async with service.watch_where({"online": True, "team": "red"}) as watch:
            assert set(watch) == {"ann"}
            async with service.connect("bob"), service.connect("cid"):
                await until(lambda: set(watch) == {"ann", "bob"})
                await ann.close()
                # Sooner than those are looked for of whom nothing is heard.
                await until(lambda: set(watch) == {"bob"}, 6)
            await until(lambda: not watch)
            await watch.close()
            changes = [(change.kind, change.id) async for change in watch]
            # The reader lagged: bob has come and gone in between.
            assert [change for change in changes if change[1]] == [("gone", "ann")]


async def test_a_filter_finds_in_its_order_up_to_its_limit(world: World) -> None:
    service = await world.service()
    await service.upsert({"id": f"u{number}", "n": number} for number in range(5))
    async with service.watch_where({}, sort={"n": -1}, limit=2) as watch:
        assert set(watch) == {"u4", "u3"}
        await service.update("u4", n=-1)
        # A custom field is not announced; a change of what is makes it be looked at.
        await service.update("u4", status="low")
        await until(lambda: set(watch) == {"u3", "u2"})
    assert watch.state == "closed"


async def test_a_filter_that_is_refused_raises(world: World) -> None:
    service = await world.service()
    with pytest.raises(presenced.Refused) as caught:
        await service.watch_where({"online": {"$gt": True}})
    assert caught.value.code == "invalid_filter"


async def test_those_who_match_are_looked_for_after_a_cut(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    async with service.watch_where({"team": "red"}) as watch:
        assert not watch
        proxy.refuse(True)
        await others.upsert([named("ann", "red")])
        proxy.refuse(False)
        await until(lambda: set(watch) == {"ann"}, 5)


async def test_all_are_watched_page_after_page_and_newcomers_too(world: World) -> None:
    service = await world.service()
    await service.upsert(named(f"u{number:03}", "red") for number in range(250))
    async with service.watch_all() as watch:
        assert len(watch) == 250
        async with (await world.user("alice@example.com")).connect():
            await until(lambda: "alice@example.com" in watch)
        await service.delete(["u007"])
        await until(lambda: getattr(watch["alice@example.com"], "online", True) is False)
        await watch.close()
        kinds = [(change.kind, change.id) async for change in watch if change.id]
        assert kinds == [("fields", "alice@example.com")], "a reader that lags sees her as she is"


async def test_all_are_asked_for_again_after_a_cut(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    await others.upsert(named(id, "red") for id in "abc")
    async with service.watch_all() as watch:
        proxy.refuse(True)
        await until(lambda: watch.state == "stale")
        await others.delete(["b"])
        await others.upsert([named("d", "blue")])
        assert set(watch) == {"a", "b", "c"}, "the old picture stays"
        proxy.refuse(False)
        await until(lambda: watch.state == "live")
        assert {id for id, user in watch.items() if user} == {"a", "c", "d"}
        for id in "acd":
            assert watch[id] == await others.get(id)
        proxy.cut()
        await until(lambda: set(watch) == {"a", "c", "d"})


async def test_the_audit_of_all_finds_events_that_do_not_arrive(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url, audit=1.0), await world.service()
    async with service.watch_all() as watch:
        assert watch._sub is not None
        await service._link.nats.nc._send_unsubscribe(watch._sub._id)  # The server forgets it.
        await service._link._round_trip()
        await others.update("john", status="unheard")
        await until(lambda: getattr(watch.get("john"), "status", "") == "unheard")
        await until(lambda: watch.degraded)
        assert service._hub.missed == 1
        proxy.cut()  # All is subscribed to again.
        await until(lambda: watch.degraded is None)


async def test_all_are_denied_to_a_login_that_may_not_see_them(bare: World) -> None:
    await permitted(bare)
    nc = await bare.connect(user="john", password="j")
    async with presenced.service(nc) as service:
        with pytest.raises(presenced.Denied) as caught:
            await asyncio.wait_for(service.watch_all().__aenter__(), 5)
        assert caught.value.subject == "user.presence.changed.*"


def found(service: Any, everyone: bool) -> presenced.Opening[presenced.Watch]:
    opening: presenced.Opening[presenced.Watch] = (
        service.watch_all() if everyone else service.watch_where({})
    )
    return opening


@pytest.mark.parametrize("everyone", [False, True])
async def test_after_a_loss_questions_are_spread(
    world: World, monkeypatch: pytest.MonkeyPatch, everyone: bool
) -> None:
    monkeypatch.setattr("presenced._rounds.resync_pause", lambda users: 1.5)
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    tap = await Tap.on(world, "presence.v1.query_users")
    async with found(service, everyone) as watch:
        proxy.refuse(True)
        await until(lambda: not service._link.is_up)
        await asyncio.sleep(0.3)
        tap.sent.clear()
        proxy.refuse(False)
        await until(lambda: service._link.is_up)
        up_at = time.monotonic()
        await until(lambda: tap.sent)
        assert tap.sent[0][0] - up_at > 1.2
        await until(lambda: watch.state == "live")


async def test_a_permission_to_ask_that_is_withdrawn_denies_until_it_is_given(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.*"')
    nc = await bare.connect(user="john", password="j")
    assert bare.config is not None
    allowed = bare.config.read_text()
    async with presenced.user(nc, "john") as me, me.watch_where({}) as watch:
        denied = allowed.replace("deny: [", 'deny: ["presence.v1.query_users.john", ')
        for text, state in ((denied, "denied"), (allowed, "live")):
            bare.config.write_text(text)
            bare.kill_nats()
            bare.start_nats()
            await until(lambda state=state: watch.state == state, 40)
        assert watch.last_error is not None and watch.last_error.code == "permission"


async def test_a_permission_to_see_all_that_is_withdrawn_denies(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.*"', publish="presence.v1.*")
    nc = await bare.connect(user="john", password="j")
    async with presenced.service(nc) as service, service.watch_all() as watch:
        assert bare.config is not None and bare.nats is not None
        bare.config.write_text(bare.config.read_text().replace("changed.*", "changed.x"))
        bare.nats.send_signal(signal.SIGHUP)
        await until(lambda: watch.state == "denied")


@pytest.mark.parametrize("question", ["get", "users", "watch_where"])
async def test_watches_take_what_has_no_event_from_other_answers(
    world: World, question: str
) -> None:
    """A custom field that is not announced, and a user who is made offline."""
    service, others = await world.service(), await world.service()
    await others.update("john", status="here", x=1)
    async with service.watch(["john", "jack"]) as watch, service.watch_all() as everyone:
        await others.update("john", x=2)
        await others.update("jack", x=3)
        assert watch["john"] is not None and watch["john"].fields["x"] == 1
        assert watch["jack"] is None and "jack" not in everyone
        who: presenced.Filter = {"id": {"$in": ["john", "jack"]}}
        if question == "get":
            await service.get_many(["john", "jack"])
        elif question == "users":
            await service.users(who, fresh=True)
        else:
            async with service.watch_where(who) as found:
                assert await same_as_query(world, found)
                assert sorted(found) == ["jack", "john"]
        assert await same_as_query(world, watch)
        assert dict(watch) == dict(everyone)
        assert service._hub.missed == 0


async def test_a_user_who_is_gone_from_an_answer_is_gone_from_a_watch(world: World) -> None:
    service, others = await world.service(), await world.service()
    await others.update("jack", x=3)
    async with service.watch(["jack"]) as watch:
        assert watch["jack"] is not None
        await others.delete(["jack"])  # Nobody saw more of jack: there is no event.
        assert await service.get("jack") is None
        assert watch["jack"] is None


async def test_users_are_watched_again_while_others_are_let_go(world: World) -> None:
    service = await world.service()
    ids = ["a", "b", "c"]
    await (await service.watch(ids)).close()
    link = service._hub._link
    unsubscribe = link.unsubscribe
    opened: list[asyncio.Future[Any]] = []

    async def watch_again() -> presenced.UserWatch:
        return await service.watch(ids)

    async def unsubscribe_slowly(sub: Any) -> None:
        if not opened:
            opened.append(asyncio.ensure_future(watch_again()))
            await asyncio.sleep(0.05)
        await unsubscribe(sub)

    link.unsubscribe = unsubscribe_slowly  # type: ignore[method-assign]
    await until(lambda: opened)
    again = await asyncio.wait_for(opened[0], 10)
    await service.update("b", status="news")
    await until(lambda: getattr(again["b"], "status", "") == "news")
    assert (await asyncio.wait_for(watch_again(), 10)).state == "live"
