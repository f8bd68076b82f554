"""A gateway: clients speak JSON lines over TCP, and need no NATS.

    python gateway.py nats://127.0.0.1:4222 7000

The first line says who it is, ``{"user": "john", "status": "hello"}``; a real gateway checks a
login here. Later lines are ``{"update": {"status": null}}``, ``{"idle": true}`` and
``{"watch": ["jack"]}``. The gateway sends ``{"users": {…}}`` for what is watched, then
``{"change": "came", "user": {…}}``, and ``{"error": "…"}`` for what is refused.

All clients' connections hang on one lease, and share the watches of one hub.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from typing import Any, Optional, cast

import presenced


def view(user: Optional[presenced.User]) -> Optional[dict[str, Any]]:
    if user is None:
        return None
    return {"id": user.id, "online": user.online, "status": user.status, **user.fields}


class Client:
    def __init__(
        self,
        service: presenced.Service,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._watch: Optional[presenced.UserWatch] = None
        self._following: Optional[asyncio.Task[None]] = None

    async def serve(self, lease: presenced.Lease) -> None:
        try:
            hello = await self._next_line()
            user = hello.pop("user")
            async with lease.connect(user, hello) as seat:
                await self._send({"hello": user})
                while True:
                    await self._handle(seat, await self._next_line())
        except presenced.PresenceError as error:
            await self._send({"error": str(error)})
        except (
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            RecursionError,
            ValueError,
            KeyError,
            TypeError,
        ):
            pass  # The client has gone, or speaks another language.
        finally:
            if self._following is not None:
                self._following.cancel()
            if self._watch is not None:
                await self._watch.close()
            self._writer.close()

    async def _handle(self, seat: presenced.Seat, line: Mapping[str, Any]) -> None:
        try:
            if "update" in line:
                await seat.update(line["update"])
            if "idle" in line:
                await seat.set_idle(bool(line["idle"]))
            if "watch" in line:
                await self._follow(line["watch"])
        except presenced.Refused as error:
            await self._send({"error": str(error)})

    async def _follow(self, ids: list[str]) -> None:
        if not isinstance(ids, list):
            raise TypeError("a list of users is watched")
        if self._watch is not None:
            self._watch.add(*ids)
            return
        self._watch = await self._service.watch(ids)
        await self._send({"users": {id: view(user) for id, user in self._watch.items()}})
        self._following = asyncio.ensure_future(self._send_changes(self._watch))

    async def _send_changes(self, watch: presenced.Watch) -> None:
        async for change in watch:
            if change.id is not None:
                await self._send(
                    {"change": change.kind, "id": change.id, "user": view(change.user)}
                )

    async def _next_line(self) -> dict[str, Any]:
        body: Any = json.loads(await self._reader.readuntil())
        if not isinstance(body, dict):
            raise ValueError("a line is an object")
        return cast("dict[str, Any]", body)

    async def _send(self, body: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(body).encode() + b"\n")
        await self._writer.drain()


async def main(url: str, port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with presenced.connect(url) as service, service.lease("gateway") as lease:

        async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Client(service, reader, writer).serve(lease)

        server = await asyncio.start_server(on_client, "127.0.0.1", port)
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await stopped.wait()
        server.close()
        await lease.close(restart=True)  # The users come back to the next one, unseen.


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
