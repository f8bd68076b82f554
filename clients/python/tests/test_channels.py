"""Watches of channels beside others: who leaves, what is deleted, and whom that concerns."""

from __future__ import annotations

import asyncio
import contextlib

from conftest import World, permitted, until

import presenced


async def resync(watch: presenced.Watch, cut: object) -> None:
    """Cuts the link, and waits until the watch is live again or ended."""
    since = watch.since
    cut()  # type: ignore[operator]
    await until(lambda: watch.since > since)
    with contextlib.suppress(presenced.PresenceError):
        await asyncio.wait_for(watch.live(), 15)
    assert watch.state in ("live", "closed")


async def test_who_leaves_a_channel_is_absent_there_and_nowhere_else(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    ids = [f"m{number}" for number in range(8)]
    await others.upsert({"id": id} for id in ids)
    await others.upsert_channel("team", "a", members=ids)
    async with service.watch_channel("team", "a") as channel:
        async with service.watch(ids) as watch:
            await others.upsert_channel("team", "a", remove_members=ids[1:])
            await resync(watch, proxy.cut)
            assert all(user is not None for user in watch.values())
        await resync(channel, proxy.cut)
        assert {id for id, user in channel.items() if user} == {"m0"}
        async with service.watch(ids) as watch:
            assert all(user is not None for user in watch.values())
        await others.upsert_channel("team", "a", add_members=ids[1:])
        await resync(channel, proxy.cut)
        assert all(user is not None for user in channel.values())
        await channel.close()
        kinds = [(change.kind, change.id) async for change in channel if change.id]
        assert not kinds, "a reader that lags sees no difference"


async def test_each_channel_of_one_user_answers_for_itself(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    await others.upsert([{"id": "john"}])
    for id in "abcdefgh":
        await others.upsert_channel("team", id, members=["john"])
    watches = [await service.watch_channel("team", id) for id in "abcdefgh"]
    for id in "abcdefg":
        await others.upsert_channel("team", id, remove_members=["john"])
    await resync(watches[-1], proxy.cut)
    assert watches[-1]["john"] is not None
    assert all(watch.state != "closed" for watch in watches)


async def test_a_user_who_leaves_the_channel_no_longer_watches_it(world: World) -> None:
    proxy = await world.proxy()
    me, others = await world.user("john", proxy.url), await world.service()
    await others.upsert([{"id": "jack"}])
    await others.upsert_channel("team", "a", members=["john", "jack"])
    async with me.watch_channel("team", "a") as channel, me.watch(["jill"]) as watch:
        await others.upsert_channel("team", "a", remove_members=["john"])
        proxy.cut()
        await until(lambda: channel.state == "closed")
        assert channel.last_error is not None and channel.last_error.code == "channel_not_found"
        await until(lambda: watch.state == "live")
        assert watch.last_error is None
        assert [change.kind async for change in channel][-1] == "state"


async def test_a_deleted_channel_is_not_made_again_by_who_watches(world: World) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    data = {"members": ["john", "jack"], "color": "red"}
    async with service.watch_channel("team", "a", data=data) as channel:
        assert channel.channel is not None and channel.channel.fields["color"] == "red"
        await others.delete_channel("team", "a")
        proxy.cut()
        await until(lambda: channel.state == "closed")
    assert not await others.channels({})


async def test_who_leaves_a_channel_is_absent_there_also_if_watched_elsewhere(
    world: World,
) -> None:
    proxy = await world.proxy()
    service, others = await world.service(proxy.url), await world.service()
    ids = ["john", "jack"]
    await others.upsert({"id": id} for id in ids)
    await others.upsert_channel("team", "a", members=ids)
    async with service.watch_channel("team", "a") as channel, service.watch(ids) as watch:
        await others.upsert_channel("team", "a", remove_members=["john"])
        await resync(channel, proxy.cut)
        await watch.live()
        assert channel["john"] is None and watch["john"] is not None
        await others.update("john", status="elsewhere")
        await until(lambda: getattr(watch["john"], "status", None) == "elsewhere")
        assert channel["john"] is None
        await others.upsert_channel("team", "a", add_members=["john"])
        await resync(channel, proxy.cut)
        assert channel["john"] == watch["john"]


async def test_a_channel_is_made_and_those_who_join_later_are_not_added(world: World) -> None:
    service = await world.service()
    async with service.watch_channel("team", "a") as watch:
        assert watch.channel is not None and watch.channel.member_count == len(watch) == 0
        assert [channel.id for channel in await service.channels()] == ["a"]
        await service.upsert_channel("team", "a", add_members=["john"])
        async with service.watch_channel("team", "a", data={"members": ["jack"]}) as again:
            assert (sorted(again), list(watch)) == (["john"], [])
        service._hub.resync()
        await watch.live()
        assert not list(watch)


async def test_a_misspelt_option_is_a_field(world: World) -> None:
    service = await world.service()
    async with service.connect("john", devise="web") as connection:  # As the README says.
        assert connection.me is not None
        assert (connection.me.fields["devise"], connection.me.devices) == ("web", ())


async def test_who_may_not_look_for_channels_does_not_make_one_again(bare: World) -> None:
    denied, see = '"presence.v1.query_channels"', '"user.presence.changed.>"'
    await permitted(bare, see=see, deny=denied, publish="presence.v1.>")
    admin = presenced.service(await bare.connect(user="admin", password="a"))
    bare.clients.append(admin)
    await admin.upsert_channel("team", "a", members=["john", "jack"])
    service = await bare.service(bare.url.replace("//", "//john:j@"))
    async with service.watch_channel("team", "a") as watch:
        await admin.update("jack", status="here")
        service._hub.resync()
        await until(lambda: watch.state == "live")
        assert sorted(watch) == ["jack", "john"]
        await admin.delete_channel("team", "a")
        service._hub.resync()
        await until(lambda: watch.state == "closed")
        assert isinstance(watch.last_error, presenced.Refused)
        assert await admin.channels({"type": "team"}) == []
