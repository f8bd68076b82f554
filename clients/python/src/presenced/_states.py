"""The state of a connection or a lease, for those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Optional

from ._model import ConnectionState, Status, now
from .errors import PresenceError

# A reader that lags by more loses the oldest steps.
_KEPT = 100


class HasState:
    """What shows its state: a connection, a lease."""

    _states: States

    @property
    def status(self) -> Status:
        """The state, since when, and the last error."""
        return self._states.current

    @property
    def state(self) -> ConnectionState:
        return self._states.current.state

    def states(self) -> AsyncIterator[Status]:
        """The current status, then each change; ends when it is closed."""
        return self._states.follow()


class States:
    def __init__(self) -> None:
        self.current = Status(ConnectionState.CONNECTING, now())
        self._readers: set[asyncio.Queue[Status]] = set()

    def set(
        self,
        state: ConnectionState,
        error: Optional[PresenceError] = None,
        *,
        relapsed: bool = False,
        recreated: bool = False,
    ) -> None:
        current = self.current
        if current.state is ConnectionState.CLOSED:
            return
        if state is current.state and not relapsed and error is current.error:
            return
        since = current.since if state is current.state and not relapsed else now()
        self.current = Status(state, since, error, relapsed, recreated)
        for reader in self._readers:
            if reader.full():
                reader.get_nowait()
            reader.put_nowait(self.current)

    async def follow(self) -> AsyncIterator[Status]:
        reader: asyncio.Queue[Status] = asyncio.Queue(_KEPT)
        reader.put_nowait(self.current)
        self._readers.add(reader)
        try:
            while True:
                status = await reader.get()
                yield status
                if status.state is ConnectionState.CLOSED:
                    return
        finally:
            self._readers.discard(reader)
