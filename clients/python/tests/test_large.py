"""Answers that are too large for one message of NATS, and channels with more than one page."""

from __future__ import annotations

import pytest
from conftest import World, permitted, until

import presenced

IDS = [f"u{number:02}" for number in range(20)]


@pytest.fixture
async def narrow(bare: World) -> World:
    """A world where an answer has room for six of twenty users."""
    bare.config = bare.folder / "nats.conf"
    store = bare.folder / "store"
    bare.config.write_text(f'jetstream {{ store_dir: "{store}" }}\nmax_payload: 32KB\n')
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service = await bare.service()
    for id in IDS:
        await service.update(id, text="x" * 4900)
    return bare


async def test_who_are_too_many_for_one_answer_are_asked_for_by_several(narrow: World) -> None:
    service = await narrow.service()
    assert list(await service.get_many(IDS)) == IDS
    assert [user.id for user in await service.users()] == IDS
    assert [user.id for user in await service.users(limit=15)] == IDS[:15]
    async with service.watch(IDS) as watch, service.watch_all() as everyone:
        assert set(watch) == set(everyone) == set(IDS)
    async with service.watch_where({"online": False}) as found:
        assert set(found) == set(IDS)


async def test_users_whose_views_are_too_large_are_changed_by_several_requests(
    narrow: World,
) -> None:
    service = await narrow.service()
    views = await service.upsert({"id": id, "status": "x"} for id in IDS)
    assert list(views) == IDS
    assert all(user and user.status == "x" for user in (await service.get_many(IDS)).values())


async def test_a_request_that_is_too_large_goes_in_several(world: World) -> None:
    service = await world.service()
    # Each letter takes six bytes of JSON.
    views = await service.upsert({"id": f"u{n}", "bio": "ж" * 2400} for n in range(100))
    assert len(views) == 100


async def test_users_in_the_order_of_ids_have_no_end(world: World) -> None:
    service = await world.service()
    await service.upsert({"id": f"u{n:04}"} for n in range(1150))
    found = await service.users(sort={"id": 1})
    assert [user.id for user in found] == [f"u{n:04}" for n in range(1150)]


async def test_a_channel_of_large_members_is_watched_as_far_as_an_answer_goes(
    narrow: World,
) -> None:
    proxy = await narrow.proxy()
    service, others = await narrow.service(proxy.url), await narrow.service()
    data = {"members": IDS}
    async with service.watch_channel("team", "a", data=data, users="all") as watch:
        number = len(watch.ids)
        assert watch.truncated and 1 < number < 20
        assert watch.ids >= set(IDS[:number]) and watch.channel is not None
        assert watch.channel.member_count == 20
        assert dict(watch) == await others.get_many(watch.ids)
        live = watch.since
        proxy.cut()
        await until(lambda: watch.since > live and watch.state == "live")
        assert dict(watch) == await others.get_many(watch.ids)
    async with service.watch_channel("team", "a") as first:
        assert (first.ids, first.truncated) == (set(IDS[:10]), True)
        assert dict(first) == await others.get_many(IDS[:10])
    channels = await others.channels({})
    assert [(c.member_count, len(c.members) < 20) for c in channels] == [(20, True)]


async def test_a_member_behind_those_who_are_returned_is_seen(world: World) -> None:
    service = await world.service()
    members = [f"m{number:03}" for number in range(130)]
    await service.upsert([{"id": id} for id in members[:125]])
    await service.upsert_channel("team", "a", add_members=members[:100])
    await service.upsert_channel("team", "a", add_members=members[100:])
    wanted = ["m000", "m120", "m129"]
    async with service.watch_channel("team", "a", users=wanted) as watch:
        assert dict(watch) == await service.get_many(wanted)
        assert watch["m120"] is not None and watch["m129"] is None
        watch_all = await service.watch_channel("team", "a", users="all")
        assert watch_all.truncated and len(watch_all) == 100
        strangers = [*(f"x{n}" for n in range(4)), "m121", "m122", "x5"]
        assert await watch._members_of(strangers) == ["m121", "m122"]


async def test_a_member_behind_those_is_unknown_to_a_login_that_may_not_ask(bare: World) -> None:
    deny = '"presence.v1.query_users.john"'
    await permitted(bare, '"user.presence.changed.m120"', deny)
    service = await bare.service(bare.url.replace("//", "//admin:a@"))
    members = ["john", *(f"m{number:03}" for number in range(130))]
    await service.upsert_channel("team", "a", add_members=members[:100])
    await service.upsert_channel("team", "a", add_members=members[100:])
    me = await bare.user("john", bare.url.replace("//", "//john:j@"))
    async with me.watch_channel("team", "a", users=["john", "m120"]) as watch:
        assert "m120" not in watch and "john" in watch and watch.state == "live"
        async with service.connect("m120"):
            await until(lambda: "m120" in watch)
            m120 = watch["m120"]
            assert m120 is not None and m120.online
    assert isinstance(await service.get("m120"), presenced.User)
