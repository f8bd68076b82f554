"""What comes between a request and its answer, and what is left then."""

from __future__ import annotations

import asyncio
from typing import Any

from conftest import Tap, World, until

import presenced


async def test_a_batch_that_was_applied_without_an_answer_does_not_move_the_lease(
    world: World,
) -> None:
    service = await world.service()
    beats = await Tap.on(world, "presence.v1.heartbeat")
    async with service.lease("gw") as lease:
        await lease.connect("anna")
        name, once = lease.name, service._calls.once

        async def unheard(operation: str, *arguments: Any) -> Any:
            answer = await once(operation, *arguments)
            if operation == "batch" and len(beats.sent) < 5:
                details = {"retry_after_ms": 1500}
                raise presenced.Busy("applied, all the same", details=details)
            return answer

        service._calls.once = unheard  # type: ignore[method-assign]
        beats.sent.clear()
        await asyncio.gather(*(lease.connect(f"u{n}", timeout=60) for n in range(5)))
        await until(lambda: lease.held == 6)
        assert lease.name == name
