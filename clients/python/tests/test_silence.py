"""Daemons that hang while NATS answers, and that come back."""

from __future__ import annotations

import signal

from conftest import World, until

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
