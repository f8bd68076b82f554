"""Whether the NATS server still answers: PINGs when something is missing, or nothing comes."""

from __future__ import annotations

import asyncio
from typing import Optional

from ._nats import Nats
from ._pace import TRY_TIMEOUT, clock

# A connection with subscriptions over which nothing came for so long is probed.
_SILENCE = 18.0


class Probe:
    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._task: Optional[asyncio.Task[bool]] = None
        self._closed = False
        self._received = -1
        self._heard_at = 0.0
        #: How often a silent connection was made to reconnect.
        self.forced: int = 0

    def begin(self) -> None:
        """Has the connection probed in the background: an answer is missing."""
        if self._may and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self.run())

    async def run(self) -> bool:
        """Whether the server answers; a silent connection is made to reconnect."""
        generation = self._nats.reconnects
        for _ in range(2):
            if not self._may:
                return False
            if await self._nats.pong_within(TRY_TIMEOUT):
                return True
        if self._may and self._nats.reconnects == generation:
            self.forced += await self._nats.force_reconnect()
        return False

    def listen(self, expects: bool) -> None:
        """Probes a silent connection where something is expected: who only watches sends nothing
        that would miss its answer."""
        received = self._nats.received
        if received != self._received:
            self._received, self._heard_at = received, clock()
        elif expects and clock() - self._heard_at >= _SILENCE:
            self._heard_at = clock()
            self.begin()

    @property
    def _may(self) -> bool:
        """A connection that is not ours any more is let be."""
        return self._nats.is_connected and not self._closed

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
