"""Rows of the failure matrix: programs that die or freeze, clocks, repeated events, limits."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import LEASE, Log, Tap, World, free_port, permitted, same_as_query, until
from test_examples import PROJECT, end, line_of, start

import presenced


async def test_the_user_of_a_program_that_dies_lapses(world: World) -> None:
    service = await world.service()
    bot = await start(str(PROJECT / "examples/bot.py"), world.url, "john")
    try:
        assert await line_of(bot) == "watching john"
        async with service.watch(["greeter"]) as watch:
            bot.kill()
            killed_at = time.monotonic()
            await until(lambda: not getattr(watch["greeter"], "online", True), LEASE + 8)
            # Its last heartbeat may be as old as an interval.
            assert time.monotonic() - killed_at > LEASE - 1.5
            assert await same_as_query(world, watch)
    finally:
        await bot.wait()


async def test_a_program_that_freezes_lapses_and_comes_back(world: World) -> None:
    service = await world.service()
    bot = await start(str(PROJECT / "examples/bot.py"), world.url, "john")
    try:
        assert await line_of(bot) == "watching john"
        async with service.watch(["greeter"]) as watch:
            bot.send_signal(signal.SIGSTOP)
            await until(lambda: not getattr(watch["greeter"], "online", True), LEASE + 8)
            async with service.connect("john"):  # What it has missed, it sees afterwards.
                bot.send_signal(signal.SIGCONT)
                await until(lambda: getattr(watch["greeter"], "online", False))
                assert await line_of(bot) == "Hello, john!"
    finally:
        bot.send_signal(signal.SIGCONT)
        await end(bot)


async def test_a_program_that_restarts_within_the_grace_is_noticed_by_nobody(
    bare: World,
) -> None:
    bare.settings["liveness.offline_grace"] = "3s"
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service = await bare.service()
    async with service.watch(["john"]) as watch:
        log, ids = Log(watch), set()
        for _ in range(3):
            async with presenced.connect(bare.url, user="john") as me:
                async with me.connect(status="here", device="desktop") as connection:
                    ids.add(connection.id)
        assert len(ids) == 3
        await until(lambda: not getattr(watch["john"], "online", True), 10)
        await watch.close()
        await log.task
    assert log.seen("came") == log.seen("left") == 1


async def test_a_wall_clock_that_jumps_is_noticed_by_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = [0.0]
    wall, now = time.time, presenced._model.now

    def jumping() -> float:
        return wall() + offsets[-1]

    def jumping_now() -> datetime:
        return now() + timedelta(seconds=offsets[-1])

    monkeypatch.setattr(time, "time", jumping)
    for module in (presenced._states, presenced.watch):
        monkeypatch.setattr(module, "now", jumping_now)
    service, others = await world.service(audit=0.5), await world.service()
    tap = await Tap.on(world, "presence.v1.heartbeat")
    async with service.watch(["jack"]) as watch, service.connect("john") as connection:
        states = connection.since, watch.since
        for offset in (3600.0, -3600.0, 86400.0):
            offsets.append(offset)
            beats = len(tap.sent)
            await until(lambda beats=beats: len(tap.sent) >= beats + 2, 3.5)
        await others.update("jack", status="x")
        await until(lambda: getattr(watch["jack"], "status", "") == "x")
        assert (connection.since, watch.since) == states
        assert len(tap.sent) < 20 and not watch.degraded


async def test_repeated_and_older_events_change_nothing(world: World) -> None:
    service, nc = await world.service(), await world.connect()
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    await nc.subscribe("user.presence.changed.john", cb=hear)
    await nc.flush()
    async with service.watch(["john"]) as watch, service.watch_all() as everyone:
        log = Log(watch)
        for status in ("a", "b"):
            await service.update("john", status=status)
        await until(lambda: len(heard) == 2 and log.seen("status") >= 1)
        await until(lambda: getattr(watch["john"], "status", "") == "b")
        steps = len(log.kinds)
        for event in (heard[0], heard[1], heard[0]):
            await nc.publish("user.presence.changed.john", event)
        await nc.flush()
        await until(lambda: len(heard) == 5)
        await service.update("jack", status="behind them")
        await until(lambda: "jack" in everyone)
        for picture in (watch, everyone):
            assert getattr(picture["john"], "status", "") == "b"
        assert len(log.kinds) == steps
        assert await same_as_query(world, watch)
        await watch.close()
        await log.task


async def test_an_error_of_the_server_that_nats_py_does_not_know_closes_all(bare: World) -> None:
    """Too many subscriptions: nats-py closes the connection."""
    bare.config = bare.folder / "nats.conf"
    bare.config.write_text(
        f'jetstream {{ store_dir: "{bare.folder / "store"}" }}\nmax_subscriptions: 40\n'
    )
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service, others = await bare.service(), await bare.service()
    connection = await service.connect("john")
    watch = await service.watch(["john"])
    with pytest.raises(presenced.Closed):
        await asyncio.wait_for(service.watch([f"u{number}" for number in range(60)]), 20)
    assert service._link.nats.nc.is_closed
    await until(lambda: connection.state == "closed" and watch.state == "closed")
    with pytest.raises(presenced.Closed):
        await service.get("john")
    assert await others.get("john") is not None


def leaf(folder: Path, port: int) -> Path:
    config = folder / "leaf.conf"
    config.write_text(
        f'leafnodes {{ remotes: [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}\n'
        'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"\n'
    )
    return config


async def test_a_server_that_is_drained_is_left_for_another(bare: World, tmp_path: Path) -> None:
    port = free_port()
    bare.config = bare.folder / "nats.conf"
    bare.config.write_text(
        f'jetstream {{ store_dir: "{bare.folder / "store"}" }}\n'
        f'leafnodes {{ listen: "127.0.0.1:{port}" }}\n'
    )
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    (tmp_path / "edge").mkdir()
    edge = World(tmp_path / "edge")
    edge.config = leaf(edge.folder, port)
    edge.start_nats()
    try:
        await edge.ready()
        others = await bare.service()
        nc = await edge.connect([edge.url, bare.url], dont_randomize=True)  # type: ignore[arg-type]
        async with presenced.user(nc, "john") as me, others.watch(["john"]) as seen:
            log = Log(seen)
            async with me.connect() as connection, me.watch(["jack"]) as watch:
                online = connection.since
                assert edge.nats is not None and nc.connected_url.port == edge.port
                edge.nats.send_signal(signal.SIGUSR2)  # Lame duck.
                await until(lambda: nc.is_connected and nc.connected_url.port == bare.port, 40)
                await until(lambda: connection.since > online)
                await until(lambda: connection.state == "online" and watch.state == "live")
                await others.update("jack", status="news")
                await until(lambda: getattr(watch["jack"], "status", "") == "news")
                assert await same_as_query(bare, watch)
                assert log.seen("left", "gone") == 0
            await seen.close()
            with contextlib.suppress(asyncio.CancelledError):
                await log.task
    finally:
        await edge.close()


async def test_a_login_that_is_refused_after_an_outage_is_tried_again(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.jack"')
    assert bare.config is not None
    right = bare.config.read_text()
    nc = await bare.connect(user="john", password="j")
    admin = await bare.connect(user="admin", password="a")
    async with presenced.user(nc, "john") as me, presenced.service(admin) as others:
        async with me.connect() as connection, me.watch(["jack"]) as watch:
            bare.config.write_text(right.replace("password: j,", "password: other,"))
            bare.kill_nats()
            bare.start_nats()
            await until(lambda: connection.state == "interrupted" and watch.state == "stale")
            await until(others.count, 20)
            bare.config.write_text(right)
            assert bare.nats is not None
            bare.nats.send_signal(signal.SIGHUP)
            await until(lambda: connection.state == "online" and watch.state == "live", 30)
            await others.update("jack", status="news")
            await until(lambda: getattr(watch["jack"], "status", "") == "news")


async def test_a_lease_whose_heartbeats_are_refused_ends(bare: World) -> None:
    await permitted(bare, publish="presence.v1.*", deny='"presence.v1.heartbeat"')
    nc = await bare.connect(user="john", password="j")
    async with presenced.service(nc) as service:
        lease = await service.lease("gw")
        seat = await lease.connect("jack")
        for each in (lease, seat):
            with pytest.raises(presenced.Denied) as caught:
                await asyncio.wait_for(each.wait_closed(), 20)
            assert caught.value.subject == "presence.v1.heartbeat"
            assert each.state == "closed"


async def test_a_permission_to_connect_that_is_withdrawn_ends_the_connection(bare: World) -> None:
    await permitted(bare, see='"user.presence.changed.jack"')
    nc = await bare.connect(user="john", password="j")
    async with presenced.user(nc, "john") as me, me.watch(["jack"]) as watch:
        connection = await me.connect()
        assert bare.config is not None and bare.nats is not None
        text = bare.config.read_text()
        refused = '"presence.v1.heartbeat.john", "presence.v1.connect.john"'
        bare.config.write_text(text.replace("deny: [", f"deny: [{refused}, "))
        bare.nats.send_signal(signal.SIGHUP)
        with pytest.raises(presenced.Denied) as caught:
            await asyncio.wait_for(connection.wait_closed(), 20)
        assert caught.value.subject == "presence.v1.heartbeat.john"
        with pytest.raises(presenced.Denied) as caught:
            await me.connect()
        assert caught.value.subject == "presence.v1.connect.john"
        await until(lambda: watch.state == "live")
