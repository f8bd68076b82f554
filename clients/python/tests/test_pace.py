"""The pace of requests: nothing while NATS is away, few queries at once, spread in time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from conftest import Tap, World, until

import presenced
from presenced import _audit, _hub, _pace


async def test_nothing_is_sent_while_nats_is_away(world: World) -> None:
    proxy = await world.proxy()
    nc = await world.connect(proxy.url)
    tap = await Tap.on(world, "presence.v1.>")
    async with presenced.service(nc) as service, service.lease("gw") as lease:
        seat = await lease.connect("jack")
        async with service.connect("john") as connection, service.watch(["jill"]):
            proxy.refuse(True)
            await until(lambda: connection.state == lease.state == "interrupted")
            changes = [
                asyncio.ensure_future(session.update(status=f"{number}"))
                for session in (seat, connection)
                for number in range(3)
            ]
            asking = asyncio.ensure_future(service.get("john"))
            await asyncio.sleep(1.5)  # More than a heartbeat's interval.
            assert nc.pending_data_size == 0, "nats-py would send it afterwards"
            tap.sent.clear()
            proxy.refuse(False)
            await asyncio.gather(*changes, asking)
            written = [body for body in tap.bodies if "status" in str(body)]
            assert len(written) == 2, "changes go as one"


async def test_at_most_four_queries_are_under_way(world: World) -> None:
    service = await world.service()
    once, under_way, most = service._calls.once, 0, 0

    async def counting(operation: str, *arguments: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await once(operation, *arguments)
        finally:
            under_way -= 1

    service._calls.once = counting  # type: ignore[method-assign]
    async with service.watch([f"u{number}" for number in range(1000)]) as watch:
        assert len(watch) == 1000
    assert most == 4


async def test_after_a_loss_users_are_asked_for_at_a_random_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presenced._hub.resync_pause", lambda users: 1.5)
    proxy = await world.proxy()
    service = await world.service(proxy.url)
    tap = await Tap.on(world, "presence.v1.query_users")
    async with service.watch(["john"]) as watch:
        tap.sent.clear()
        proxy.cut()
        await until(lambda: watch.state == "stale")
        lost_at = time.monotonic()
        await watch.live()
        assert len(tap.sent) == 1 and tap.sent[0][0] - lost_at > 1.2


def test_pauses_are_as_the_rules_say() -> None:
    for users, longest in ((1000, 1.0), (1001, 5.0)):
        pauses = [_hub.resync_pause(users) for _ in range(500)]
        assert min(pauses) < longest / 10 and longest * 0.9 < max(pauses) <= longest
    audits = [_audit.audit_pause(600.0) for _ in range(500)]
    assert 480 <= min(audits) < 500 and 700 < max(audits) <= 720
    pace = _pace.Pace()
    beats = [pace.next_interval() for _ in range(500)]
    assert 18 <= min(beats) < 18.2 and 19.8 < max(beats) <= 20
    backoff = _pace.Backoff()
    ceilings = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert all(0 <= backoff.next_pause() <= ceiling for ceiling in ceilings)
    assert backoff.next_pause(60.0) == 60.0
    backoff.reset()
    assert backoff.next_pause() <= 0.2


async def test_many_idle_clients_cost_one_timer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = [await world.service() for _ in range(20)]
    await asyncio.gather(*(service.count() for service in services))
    loop = asyncio.get_running_loop()
    timers, call_at = 0, loop.call_at

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal timers
        timers += 1
        return call_at(*arguments, **named)

    monkeypatch.setattr(loop, "call_at", counting)
    await asyncio.sleep(2)
    assert 4 <= timers < 2 * 20
    await asyncio.gather(*(service.close() for service in services))
    await asyncio.sleep(0.5)
    timers = 0
    await asyncio.sleep(1)
    assert timers <= 2, "nothing is left running"
