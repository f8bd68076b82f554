"""A TCP proxy whose links can be cut or black-holed."""

from __future__ import annotations

import asyncio


class Proxy:
    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.AbstractServer | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._gates: set[asyncio.Event] = set()
        self.port = 0
        self.accepts = True

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._on_link, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Resets all links that there are."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self, refuses: bool) -> None:
        """Cuts all links, and each new one at once."""
        self.accepts = not refuses
        if refuses:
            self.cut()

    def black_hole_now(self) -> None:
        """Passes nothing on over the links that there are; new ones work."""
        for link in self._gates:
            link.clear()

    def pass_on_again(self) -> None:
        """Lets what was held back arrive, late."""
        for link in self._gates:
            link.set()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._links):
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _on_link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        gate = asyncio.Event()
        gate.set()
        self._gates.add(gate)
        try:
            if not self.accepts:
                return
            from_server, other = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(other)
            pumps = [
                asyncio.ensure_future(self._pump(reader, other, gate)),
                asyncio.ensure_future(self._pump(from_server, writer, gate)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._links.discard(task)
            self._gates.discard(gate)
            for end in (writer, other):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            await gate.wait()
            writer.write(data)
            await writer.drain()
