"""More rows of the failure matrix: servers drained, stores lost, logins gone, daemons busy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time

import nats
import pytest
from conftest import LEASE, Log, World, permitted, same_as_query, same_versions, until

import presenced


async def test_a_nats_server_that_is_drained_is_left_and_nobody_notices(bare: World) -> None:
    bare.config = bare.folder / "nats.conf"
    bare.config.write_text(
        f'jetstream {{ store_dir: "{bare.folder / "store"}" }}\n'
        'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"\n'
    )
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service, others = await bare.service(), await bare.service()
    async with others.watch(["john"]) as watch, service.connect("john") as connection:
        log = Log(watch)
        await until(lambda: log.seen("came"))
        online = connection.since
        assert bare.nats is not None
        bare.nats.send_signal(signal.SIGUSR2)  # Lame duck.
        await until(lambda: connection.state == "interrupted", 30)
        await until(lambda: bare.nats is not None and bare.nats.poll() is not None, 30)
        bare.start_nats()
        await until(lambda: connection.since > online and connection.state == "online", 30)
        await until(lambda: watch.state == "live" and getattr(watch["john"], "online", False))
        await until(lambda: same_versions(bare, watch))
    await log.task
    assert log.seen("left", "gone") == 0


async def test_a_store_that_is_not_there_is_busy_until_the_deadline(world: World) -> None:
    service = await world.service()
    began = time.monotonic()
    with pytest.raises(presenced.Busy) as caught:
        # A revision that nobody has seen.
        await service._calls.call("query_users", {"min_rev": 10**9}, 5.0)
    assert (caught.value.code, caught.value.retryable) == ("unavailable", True)
    assert caught.value.retry_after is not None
    assert time.monotonic() - began < 8


async def test_daemons_that_are_overloaded_are_waited_for(bare: World) -> None:
    bare.settings["limits.pending_requests"] = "20"
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service = await bare.service()
    refused = 0
    once = service._calls.once

    async def counting(*arguments: object, **named: object) -> object:
        nonlocal refused
        try:
            return await once(*arguments, **named)  # type: ignore[arg-type]
        except presenced.Busy as error:
            refused += error.code == "overloaded"
            raise

    service._calls.once = counting  # type: ignore[method-assign, assignment]
    users = [f"u{n}" for n in range(200)]
    await asyncio.gather(*(service.update(user, status="x") for user in users))
    assert refused > 0
    assert await service.count({"status": "x"}, fresh=True) == 200


async def test_a_store_that_is_made_anew_has_nobody_but_those_who_connect_again(
    world: World,
) -> None:
    service = await world.service()
    nc = await world.connect()
    await service.upsert([{"id": "jack", "status": "old"}])
    async with service.watch(["jack", "john"]) as watch, service.connect("john") as connection:
        world.kill_daemon(world.daemons[0])
        assert await nc.jetstream().delete_stream("KV_presence")
        world.start_daemon()
        await until(lambda: connection._states.current.relapsed, 30)
        await until(lambda: connection.state == "online")
        service._hub.resync()
        await until(lambda: watch["jack"] is None and watch["john"] is not None)
        await service.update("jack", status="new")
        await until(lambda: getattr(watch["jack"], "status", "") == "new")
        assert await same_as_query(world, watch)


async def test_a_client_that_was_away_for_a_lease_comes_back_under_its_id(world: World) -> None:
    proxy = await world.proxy()
    me, others = await world.user("john", proxy.url), await world.service()
    async with others.watch(["john"]) as watch, me.connect(status="x") as connection:
        id = connection.id
        proxy.refuse(True)
        await until(lambda: not getattr(watch["john"], "online", True), LEASE + 10)
        assert connection.state == "interrupted"
        proxy.refuse(False)
        await until(lambda: getattr(watch["john"], "online", False))
        await until(lambda: connection.state == "online")
        assert connection.id == id
        assert await same_as_query(world, watch)


async def test_one_of_two_connections_ends_and_the_other_is_untouched(world: World) -> None:
    service = await world.service()
    me, again = await world.user("john"), await world.user("john")
    async with service.watch(["john"]) as watch, me.connect(device="a") as first:
        online = first.since
        log = Log(watch)
        async with again.connect(device="b"):
            await until(lambda: getattr(watch["john"], "devices", ()) == ("a", "b"))
        await until(lambda: getattr(watch["john"], "devices", ()) == ("a",))
        assert first.since == online and first.state == "online"
        assert log.seen("left") == 0
        await watch.close()
        await log.task


async def test_a_login_that_is_revoked_ends_all(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.jack"')
    url = bare.url.replace("//", "//john:j@")

    async def quiet(error: Exception) -> None:
        pass

    # Without end, nats-py would try to come back with the same login.
    async with presenced.connect(
        url, user="john", max_reconnect_attempts=2, reconnect_time_wait=0.1, error_cb=quiet
    ) as me:
        connection = await me.connect()
        watch = await me.watch(["jack"])
        assert bare.config is not None and bare.nats is not None
        bare.config.write_text(bare.config.read_text().replace("password: j,", "password: other,"))
        bare.nats.send_signal(signal.SIGHUP)
        await until(lambda: connection.state == "closed" and watch.state == "closed", 30)
        assert isinstance(watch.last_error, presenced.Closed)
        with pytest.raises(presenced.Closed):
            await me.get("jack")


async def test_a_slow_consumer_is_asked_for_again(world: World) -> None:
    """nats-py drops what a subscription has no room for, and says so by its one callback."""
    others = await world.service()
    seen: list[Exception] = []

    async def on_error(error: Exception) -> None:
        seen.append(error)

    async with presenced.connect(world.url, error_cb=on_error) as service:
        async with service.watch(["john"]) as watch:
            slot = service._hub.slot("john")
            assert slot is not None and slot.sub is not None
            slot.sub._pending_queue._maxsize = 1  # type: ignore[attr-defined]
            handler, gate = slot.sub._cb, asyncio.Event()

            async def blocked(message: nats.aio.msg.Msg) -> None:
                await gate.wait()
                assert handler is not None
                await handler(message)

            slot.sub._cb = blocked
            for number in range(10):
                await others.update("john", status=str(number))
            await until(lambda: seen)
            assert isinstance(seen[0], nats.errors.SlowConsumerError)
            await until(lambda: getattr(watch["john"], "status", "") == "9")
            gate.set()
            await until(lambda: watch.state == "live")
            assert getattr(watch["john"], "status", "") == "9"
            assert await same_as_query(world, watch)


async def test_nothing_is_logged_as_an_error_on_a_bad_link(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    async with service.connect("john") as connection, service.watch(["jack"]) as watch:
        for _ in range(3):
            proxy.cut()
            with contextlib.suppress(presenced.PresenceError):
                await connection.update(status="x", timeout=0.05)
            await until(lambda: connection.state == "online" and watch.state == "live")
    assert not [r for r in caplog.records if r.name == "presenced" and r.levelno >= logging.ERROR]
    assert not [r for r in caplog.records if r.name == "asyncio"]


async def test_an_own_connection_is_closed_on_a_link_that_breaks(world: World) -> None:
    proxy = await world.proxy()
    before = asyncio.all_tasks()
    for turn in range(20):
        async with presenced.connect(proxy.url, user="john", error_cb=_ignore) as me:
            await me.connect()
            me._link.nats.nc._pending_data_size += 1  # As if something was yet to be written.
            proxy.cut()
            for _ in range(turn):
                await asyncio.sleep(0)

    def reading() -> list[str]:
        tasks = [repr(task) for task in asyncio.all_tasks() - before]
        return [task for task in tasks if "_wait_for_msgs" in task]

    await until(lambda: not reading(), 3)


async def _ignore(error: Exception) -> None:
    pass
