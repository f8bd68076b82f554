"""A bot: greets each of the named users who comes online.

    python bot.py nats://127.0.0.1:4222 john jack

It is online itself, as ``greeter``, while it runs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

import presenced


async def greet(url: str, ids: Iterable[str]) -> None:
    async with presenced.connect(url, user="greeter") as me:
        async with me.connect(status="At your service"), me.watch(ids) as watch:
            print("watching", ", ".join(sorted(watch.ids)), flush=True)
            async for change in watch:
                if change.kind == "came":
                    print(f"Hello, {change.id}!", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(greet(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        pass
