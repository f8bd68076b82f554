"""A program that is interrupted leaves nobody online, also where the daemons hang."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import World, until

import presenced

PROGRAM = """
import asyncio, sys
import presenced

async def main():
    async with presenced.connect(sys.argv[1]) as service, service.lease("gw") as lease:
        async with service.connect("john"), service.watch(["john"]) as watch:
            await lease.connect("jack")
            print("ready", flush=True)
            async for change in watch:
                pass

asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.run breaks off where it stands")
@pytest.mark.parametrize("hung", [False, True])
async def test_an_interrupt_disconnects_and_ends_in_time(world: World, hung: bool) -> None:
    service = await world.service()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-c", PROGRAM, world.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(presenced.__file__).parents[1])},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    if hung:
        world.daemons[0].send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), 10)
        assert time.monotonic() - start < 7
    finally:
        world.daemons[0].send_signal(signal.SIGCONT)
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
    for left in (b"destroyed", b"never retrieved", b"never awaited", b"unclosed"):
        assert left not in errors

    async def nobody() -> bool:
        users = await service.get_many(["john", "jack"])
        return not any(user is not None and user.online for user in users.values())

    await until(nobody)
