"""A watch: a live picture of some users, as a mapping and as a stream of changes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any, Optional, TypeVar

from ._model import Change, StateChange, User, WatchState, change_of, now
from ._opening import Opened
from ._pace import clock
from ._picture import Step
from .errors import Closed, Denied, PresenceError, again

UNKNOWN: Any = object()

W = TypeVar("W", bound="Watch")


class Watch(Opened, Mapping[str, Optional[User]]):
    """The users that are watched: ``watch["john"]`` is a User, or None where there is no such user.

    An id that is not (yet) in the mapping is unknown. ``async with`` and ``await`` wait for the
    first complete picture; ``async for`` then yields each change, to one reader. A reader that lags
    gets the newest state of each user, not the steps between.
    """

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}
        self._pending: dict[str, None] = {}
        self._shown_state = WatchState.LOADING
        self._state = WatchState.LOADING
        self._wake = asyncio.Event()
        self._is_read = False
        self._why_denied: Optional[Denied] = None
        self._was_live = False
        self._since = now()
        #: The last failure of the watch, and why events may be missing: from an audit that found
        #: some to be, until a whole round of audits has found none.
        self.last_error: Optional[PresenceError] = None
        self.degraded: Optional[str] = None
        self._degraded_at = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state}, {len(self)} users>"

    @property
    def state(self) -> WatchState:
        return self._state

    @property
    def since(self) -> datetime:
        """The time at which the state began."""
        return self._since

    # -- the mapping

    @abstractmethod
    def _ids(self) -> Iterator[str]:
        """The ids that are watched, whether anything is known of them or not."""

    @abstractmethod
    def _find(self, id: str) -> Any:
        """The user of an id, None where there is none, or UNKNOWN."""

    def _has_left(self, id: str) -> bool:
        """Whether a user of whom the reader knows is watched no longer."""
        return False

    def __getitem__(self, id: str) -> Optional[User]:
        user: Optional[User] = self._find(id)
        if user is UNKNOWN:
            raise KeyError(id)
        return user

    def __iter__(self) -> Iterator[str]:
        return (id for id in list(self._ids()) if id in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._find(id) is not UNKNOWN

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    # -- life

    async def live(self) -> None:
        """Waits until the picture is complete and fresh.

        Raises Denied where NATS lets nothing be seen, and what has ended the watch where it ended.
        """
        self.check_loop()
        while True:
            if self._state is WatchState.CLOSED:
                error = self.last_error or Closed("the watch is closed")
                raise again(error) from error.__cause__
            if self._state is WatchState.LIVE and self._is_fresh():
                return
            if self._state is WatchState.DENIED:
                denied = self._why_denied or Denied("NATS refuses to let these users be seen")
                raise again(denied) from denied.__cause__
            self._wake.clear()
            await self._wake.wait()

    async def close(self) -> None:
        """Ends the watch; ``async for`` over it ends after the changes so far."""
        self.check_loop()
        self._end(None)

    async def _open(self: W) -> W:
        if self._state is WatchState.CLOSED:
            raise Closed("the watch is closed")
        try:
            await self._begin()
            await self.live()
        except BaseException:
            await self.close()
            raise
        return self

    async def _begin(self) -> None:
        """The first step of a kind of watch, before it waits for its picture."""

    # -- changes

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        self.check_loop()
        if self._is_read:
            raise RuntimeError("another task reads this watch already: each has one of its own")
        self._is_read = True
        try:
            while True:
                change = self._next_change()
                if change is not None:
                    return change
                if self._state is WatchState.CLOSED:
                    raise StopAsyncIteration
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._is_read = False

    def _next_change(self) -> Optional[Change]:
        while self._pending:
            id = next(iter(self._pending))
            del self._pending[id]
            if self._has_left(id):
                before, current = self._shown.pop(id, None), None
            else:
                before, current = self._shown.get(id, UNKNOWN), self._find(id)
                self._shown[id] = current
            if current is UNKNOWN or current == before:
                continue
            before = None if before is UNKNOWN else before
            return change_of(self._state, id, before, current)
        if self._shown_state is not self._state:
            self._shown_state = self._state
            return StateChange(self._state)
        return None

    # -- what it is fed with

    def _take(self, step: Step) -> None:
        """A user differs from what was known."""
        if self._was_live:
            self._pending[step.id] = None
            self._wake.set()
        else:
            self._shown[step.id] = step.user

    def _note(self, error: PresenceError) -> None:
        self.last_error = error
        if isinstance(error, Denied):
            self._why_denied = error

    def _degrade(self, subject: str) -> None:
        self.degraded = f"events on {subject} do not arrive: a permission, or dropped messages?"
        self._degraded_at = clock()

    def _set(self, state: WatchState) -> None:
        if self._state is WatchState.CLOSED:
            return
        if state is WatchState.LIVE and not self._was_live:
            self._was_live = True
            self._shown_state = state
            self._shown = {id: self._find(id) for id in self}
        if state is not self._state:
            self._state, self._since = state, now()
        self._wake.set()

    def _is_fresh(self) -> bool:
        """Whether all users that are watched were asked for, those that were added too."""
        return True

    def _doubt(self) -> None:
        """A hook for a doubt: what is shown may be old."""

    def _end(self, error: Optional[PresenceError]) -> None:
        if error is not None and self._state is not WatchState.CLOSED:
            self.last_error = error
        self._set(WatchState.CLOSED)
