"""The state of a connection, a lease or a seat, for those who follow it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Optional

from ._background import Outage, Trouble
from ._loop import OfLoop
from ._model import ConnectionChange, ConnectionState, now
from .errors import PresenceError, again

# A reader that lags by more loses the oldest steps.
_KEPT = 100


class HasState(OfLoop):
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

    def states(self) -> AsyncIterator[ConnectionChange]:
        """The state now, then each change; ends when it is closed. A read that is cancelled loses
        nothing."""
        self.check_loop()
        return self._states.follow()

    async def wait_closed(self) -> None:
        """Returns when it has ended; raises what ended it, if that was not ``close``."""
        async for _ in self.states():
            pass
        error = self.last_error
        if error is not None:
            raise again(error) from error.__cause__


class States:
    """The steps of one state. Failures are logged, but for those that ``what`` has raised."""

    def __init__(self, what: Optional[str] = None, outage: Optional[Outage] = None) -> None:
        self.current = ConnectionChange(ConnectionState.CONNECTING, now())
        self._trouble = Trouble(what, outage) if what is not None else None
        self._readers: weakref.WeakSet[Steps] = weakref.WeakSet()

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
        is_news = relapsed or recreated
        if state is current.state and not is_news and error is current.error:
            return
        since = current.since if state is current.state and not relapsed else now()
        self.current = ConnectionChange(state, since, error, relapsed, recreated)
        if self._trouble is not None:
            self._log(self._trouble, current.state)
        for reader in list(self._readers):
            reader.put(self.current)

    def _log(self, trouble: Trouble, before: ConnectionState) -> None:
        state, error = self.current.state, self.current.error
        if state is not ConnectionState.CLOSED and error is not None:
            trouble.note(error)
        elif state is ConnectionState.ONLINE:
            trouble.over()
        elif error is not None and before is not ConnectionState.CONNECTING:
            trouble.end(error)  # Who opens it is told by what is raised.

    def follow(self) -> Steps:
        reader = Steps(self.current)
        self._readers.add(reader)
        return reader


class Steps(AsyncIterator[ConnectionChange]):
    """One reader of a state."""

    def __init__(self, first: ConnectionChange) -> None:
        self._steps: asyncio.Queue[ConnectionChange] = asyncio.Queue(_KEPT)
        self._steps.put_nowait(first)
        self._ended = self._is_read = False

    def put(self, step: ConnectionChange) -> None:
        if self._steps.full():
            self._steps.get_nowait()
        self._steps.put_nowait(step)

    async def __anext__(self) -> ConnectionChange:
        if self._ended:
            raise StopAsyncIteration
        if self._is_read:
            raise RuntimeError("another task reads these states: each needs its own")
        self._is_read = True
        try:
            step = await self._steps.get()
        finally:
            self._is_read = False
        self._ended = step.state is ConnectionState.CLOSED
        return step
