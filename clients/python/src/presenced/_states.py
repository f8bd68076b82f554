"""The state of a connection, a lease or a seat, for those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Optional

from ._background import Trouble
from ._model import ConnectionChange, ConnectionState, now
from .errors import PresenceError, again

# A reader that lags by more loses the oldest steps.
_KEPT = 100


class HasState:
    """An object that shows its state: a connection, a lease, a seat."""

    _states: States

    @property
    def state(self) -> ConnectionState:
        """``connecting``, ``online``, ``interrupted`` or ``closed``."""
        return self._states.current.state

    @property
    def since(self) -> datetime:
        """The time at which the state began."""
        return self._states.current.since

    @property
    def last_error(self) -> Optional[PresenceError]:
        """The reason why it is not online, or its end; None while all is well."""
        return self._states.current.error

    def states(self) -> AsyncGenerator[ConnectionChange, None]:
        """The state now, then each change; ends when it is closed."""
        return self._states.follow()

    async def wait_closed(self) -> None:
        """Returns when it has ended; raises what ended it, if that was not ``close``."""
        async for _ in self.states():
            pass
        error = self.last_error
        if error is not None:
            raise again(error) from error


class States:
    """The steps of one state. Failures are logged, but for those that ``what`` has raised."""

    def __init__(self, what: Optional[str] = None) -> None:
        self.current = ConnectionChange(ConnectionState.CONNECTING, now())
        self._trouble = Trouble(what) if what is not None else None
        self._readers: set[asyncio.Queue[ConnectionChange]] = set()

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
        self.current = ConnectionChange(state, since, error, relapsed, recreated)
        if self._trouble is not None:
            self._log(self._trouble, current.state)
        for reader in self._readers:
            if reader.full():
                reader.get_nowait()
            reader.put_nowait(self.current)

    def _log(self, trouble: Trouble, before: ConnectionState) -> None:
        state, error = self.current.state, self.current.error
        if state is not ConnectionState.CLOSED and error is not None:
            trouble.note(error)
        elif state is ConnectionState.ONLINE:
            trouble.over()
        elif error is not None and before is not ConnectionState.CONNECTING:
            trouble.end(error)  # Who opens it is told by what is raised.

    async def follow(self) -> AsyncGenerator[ConnectionChange, None]:
        reader: asyncio.Queue[ConnectionChange] = asyncio.Queue(_KEPT)
        reader.put_nowait(self.current)
        self._readers.add(reader)
        try:
            while True:
                change = await reader.get()
                yield change
                if change.state is ConnectionState.CLOSED:
                    return
        finally:
            self._readers.discard(reader)
