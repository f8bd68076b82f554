"""A lease with many seats, through the faults that a gateway meets.

LEASE_SEATS and LEASE_SECONDS set its size; by hand it is ``LEASE_SEATS=20000 LEASE_SECONDS=30``.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from conftest import Log, World, until

import presenced

SEATS = int(os.environ.get("LEASE_SEATS", "1000"))
SECONDS = float(os.environ.get("LEASE_SECONDS", "3"))
PATIENCE = 60 + 4 * SECONDS + SEATS / 100


@pytest.mark.timeout(PATIENCE * 4)
async def test_all_seats_come_back_and_nobody_flickers(bare: World) -> None:
    """The daemon of a batch is killed, ``held`` is too low, and NATS is away for over a lease."""
    bare.settings = {
        "liveness.lease": f"{SECONDS}s",
        "liveness.heartbeat_interval": f"{SECONDS / 3}s",
    }
    bare.start_nats()
    first, _ = bare.start_daemon(), bare.start_daemon()
    await bare.ready()
    gateway, observer = await bare.service(), await bare.service()
    begun = time.monotonic()

    def took(what: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s: {what}", flush=True)

    users = [f"u{number}" for number in range(SEATS)]
    async with gateway.lease("gw") as lease:
        connecting = (lease.connect(user, timeout=PATIENCE) for user in users)
        seats = await asyncio.gather(*connecting)
        watch = await observer.watch_all()
        log = Log(watch)
        assert len(await online(watch)) == SEATS

        async def right() -> bool:
            """All seats are held, by the count of the daemons too, and seen."""
            if lease.held != SEATS or watch.state != "live" or len(await online(watch)) != SEATS:
                return False
            answer = await observer._calls.call("heartbeat", {"lease": lease.name})
            return bool(answer.get("held") == SEATS)

        took("connected")

        # The daemon of a batch is killed.
        updates = [seat.update(status="x", timeout=PATIENCE) for seat in seats]
        updating = asyncio.ensure_future(asyncio.gather(*updates))
        await until(lambda: lease._batches)
        bare.kill_daemon(first)
        await updating
        await until(right, PATIENCE)
        bare.start_daemon()
        took("the daemon of a batch was killed")

        # The count of the daemons is too low, twice.
        name, once, forged = lease.name, gateway._calls.once, 0

        async def low(operation: str, *arguments: Any) -> Any:
            nonlocal forged
            answer = await once(operation, *arguments)
            if operation == "heartbeat" and forged < 2:
                forged += 1
                answer["held"] = SEATS - 1
            return answer

        gateway._calls.once = low  # type: ignore[method-assign]
        await until(lambda: forged == 2 and lease.held < SEATS, PATIENCE)
        await until(right, PATIENCE)
        assert lease.name == name
        took("the count was too low")

        # NATS is away for longer than a lease.
        bare.kill_nats()
        await asyncio.sleep(SECONDS + 1)
        assert lease.state == "interrupted"
        bare.start_nats()
        await until(lambda: lease.state == "online", PATIENCE)
        await until(right, PATIENCE)

        took("NATS was away")

        # A lease later nobody has lapsed either.
        await asyncio.sleep(SECONDS + 2)
        await until(right, PATIENCE)
        assert log.seen("left") == log.seen("gone") == 0
        await asyncio.wait_for(lease.close(), PATIENCE)
        took("the lease was closed")
    await until(lambda: log.seen("left") == SEATS, PATIENCE)


async def online(watch: presenced.Watch) -> set[str]:
    return {id for id, user in watch.items() if user is not None and user.online}
