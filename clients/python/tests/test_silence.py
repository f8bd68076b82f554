"""Daemons that hang while NATS answers, and that come back."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest
from conftest import LEASE, Log, World, until

import presenced


async def test_what_hears_nothing_of_hung_daemons_is_interrupted(world: World) -> None:
    service = await world.service()
    async with service.connect("john") as connection, service.lease("gw") as lease:
        seat = await lease.connect("jack")
        followed = (connection, lease, seat)
        world.daemons[0].send_signal(signal.SIGSTOP)
        try:
            await until(lambda: all(each.state == "interrupted" for each in followed))
            for each in followed:
                assert isinstance(each.last_error, presenced.NoAnswer)
            assert service._link.is_up and service._link.probe.forced == 0
        finally:
            world.daemons[0].send_signal(signal.SIGCONT)
        await until(lambda: all(each.state == "online" for each in followed))
        assert [each.last_error for each in followed] == [None] * 3


async def test_after_a_silence_heartbeats_come_in_time_for_the_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest pauses between tries, as after a long silence and by bad luck."""
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    service, others = await world.service(), await world.service()
    async with service.connect("john") as connection, service.lease("gw") as lease:
        seat = await lease.connect("jack")
        async with others.watch(["john", "jack"]) as watch:
            log = Log(watch)
            followed = (connection, lease, seat)
            for backoff in (connection._backoff, lease._backoff, seat._backoff):
                backoff._ceiling = 10.0
            world.daemons[0].send_signal(signal.SIGSTOP)
            try:
                await until(lambda: all(each.state == "interrupted" for each in followed))
                await asyncio.sleep(LEASE)  # Into a pause between tries.
            finally:
                world.daemons[0].send_signal(signal.SIGCONT)
            await asyncio.sleep(LEASE * 2)
            assert [each.state for each in followed] == ["online"] * 3
            assert all(user is not None and user.online for user in watch.values())
    await log.task
    assert log.seen("left", "gone") == 0
