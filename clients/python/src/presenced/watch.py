"""Watches: a live picture of some users, as a mapping and as a stream of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Optional, Union

from ._calls import Calls
from ._hub import Ask, Hub
from ._model import Change, Channel, User, WatchState, kind_of, now, parse_channel
from ._picture import Step
from .errors import Closed, Denied, PresenceError

_UNKNOWN: Any = object()


class Watch(Mapping[str, Optional[User]]):
    """The users that are watched: ``watch["john"]`` is a User, or None where there is no such user.

    An id that is not (yet) in the mapping is unknown. ``async with`` and ``await`` wait for the
    first complete picture; ``async for`` then yields each change. A reader that lags gets the
    newest state of each user, not the steps between.
    """

    def __init__(self, hub: Hub, ids: Iterable[str], ask: Optional[Ask] = None) -> None:
        self._hub = hub
        self.ask: Ask = ask or hub.ask_users
        self._ids: dict[str, None] = {}
        self._shown: dict[str, Any] = {}
        self._pending: dict[str, None] = {}
        self._pending_state = False
        self._told_state = WatchState.LOADING
        self._state = WatchState.LOADING
        self._wake = asyncio.Event()
        self._live = False
        self._why_denied: Optional[PresenceError] = None
        #: When the state began, the last error, and why events may be missing, if they may.
        self.since: datetime = now()
        self.last_error: Optional[PresenceError] = None
        self.degraded: Optional[str] = None
        self.add(*ids)

    # -- mapping

    def __getitem__(self, id: str) -> Optional[User]:
        slot = self._hub.slot(id) if id in self._ids else None
        if slot is None or not slot.entry.known or slot.denied:
            raise KeyError(id)
        return slot.entry.user

    def __iter__(self) -> Iterator[str]:
        return (id for id in list(self._ids) if id in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, id: object) -> bool:
        try:
            self[id]  # type: ignore[index]
        except (KeyError, TypeError):
            return False
        return True

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    # -- life

    @property
    def state(self) -> WatchState:
        return self._state

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._ids)

    @property
    def denied(self) -> frozenset[str]:
        """Ids whose events or queries NATS refuses to this login."""
        slots = ((id, self._hub.slot(id)) for id in self._ids)
        return frozenset(id for id, slot in slots if slot is not None and slot.denied)

    def add(self, *ids: str) -> None:
        """Watches more users."""
        if self._state is WatchState.CLOSED:
            raise Closed("the watch is closed")
        new = [id for id in dict.fromkeys(ids) if id not in self._ids]
        self._hub.acquire(self, new)
        for id in new:
            self._ids[id] = None
            self._shown[id] = self.get(id, _UNKNOWN)
        self.look()

    def remove(self, *ids: str) -> None:
        """Watches some users no longer."""
        old = [id for id in dict.fromkeys(ids) if id in self._ids]
        for id in old:
            del self._ids[id]
            self._shown.pop(id, None)
            self._pending.pop(id, None)
        self._hub.release(self, old)
        self.look()

    async def live(self) -> None:
        """Waits for the first complete picture. Raises Denied where NATS lets nothing be seen."""
        while not self._live:
            if self._state is WatchState.CLOSED:
                raise self.last_error or Closed("the watch is closed")
            if self._state is WatchState.DENIED:
                raise self._why_denied or Denied(
                    f"NATS refuses to let {sorted(self.denied)} be seen"
                )
            self._wake.clear()
            await self._wake.wait()

    async def close(self) -> None:
        self.end(None)

    def end(self, error: Optional[PresenceError]) -> None:
        if self._state is not WatchState.CLOSED:
            self.last_error = error or self.last_error
            self._hub.release(self, list(self._ids))
            self._set(WatchState.CLOSED)

    async def open(self) -> Watch:
        try:
            await self.live()
        except BaseException:
            await self.close()
            raise
        return self

    def __await__(self) -> Generator[Any, None, Watch]:
        return self.open().__await__()

    async def __aenter__(self) -> Watch:
        return await self.open()

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    # -- changes

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        while True:
            change = self._next_change()
            if change is not None:
                return change
            if self._state is WatchState.CLOSED:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    def _next_change(self) -> Optional[Change]:
        while self._pending:
            id = next(iter(self._pending))
            del self._pending[id]
            shown, current = self._shown.get(id, _UNKNOWN), self.get(id, _UNKNOWN)
            self._shown[id] = current
            if current is _UNKNOWN or current == shown:
                continue
            before = None if shown is _UNKNOWN else shown
            return Change(kind_of(before, current), self._state, id, current, before)
        if self._told_state is not self._state:
            self._told_state = self._state
            return Change("state", self._state)
        return None

    # -- what the hub reports

    def take(self, step: Step) -> None:
        if step.id in self._ids:
            if self._live:
                self._pending[step.id] = None
                self._wake.set()
            else:
                self._shown[step.id] = step.user

    def note(self, error: PresenceError) -> None:
        self.last_error = error

    def look(self, error: Optional[PresenceError] = None) -> None:
        """Finds the state again."""
        if self._state is WatchState.CLOSED:
            return
        if error is not None:
            self.last_error = error
            self._why_denied = error if isinstance(error, Denied) else self._why_denied
        slots = [slot for slot in map(self._hub.slot, self._ids) if slot is not None]
        seen = [slot for slot in slots if not slot.denied]
        if slots and not seen:
            self._set(WatchState.DENIED)
        elif all(slot.fresh and not slot.asking for slot in seen):
            if not self._live:
                self._live = True
                self._told_state = WatchState.LIVE
                self._shown.update((id, self.get(id, _UNKNOWN)) for id in self._ids)
            self._set(WatchState.LIVE)
        elif self._live:
            known = all(slot.entry.known for slot in seen if not slot.fresh)
            own_only = all(slot.entry.id == self._hub.own for slot in seen if not slot.fresh)
            self._set(self._state if not known or own_only else WatchState.STALE)
        else:
            self._set(WatchState.LOADING)

    def _set(self, state: WatchState) -> None:
        if state is not self._state:
            self._state, self.since = state, now()
        self._wake.set()


class ChannelWatch(Watch):
    """A watch of the members of a channel. ``channel`` is the channel as it was answered last.

    The contract lets 10 members be watched in one call: ``users="first"`` takes the first ten in
    order of joining, a list names members, ``"all"`` pages through all that are returned.
    """

    def __init__(
        self,
        hub: Hub,
        calls: Calls,
        body: Mapping[str, Any],
        users: Union[str, Iterable[str]],
    ) -> None:
        self._calls = calls
        self._body = dict(body)
        self._users = users if isinstance(users, str) else list(users)
        self.channel: Optional[Channel] = None
        #: Members that are not watched, and whether there are any.
        self.not_watched: tuple[str, ...] = ()
        self.truncated = False
        super().__init__(hub, (), self._ask_channel)

    async def open(self) -> ChannelWatch:
        try:
            ids = None if isinstance(self._users, str) else self._users[:10]
            answer = await self._fetch(ids)
            block = answer.get("presence") or {}
            watched = list(block.get("users", ()))
            rest = list(block.get("not_watched", ()))
            if isinstance(self._users, list):
                watched, rest = list(self._users), []
            elif self._users == "all":
                watched, rest = watched + rest, []
            self.not_watched = tuple(rest)
            self.truncated = bool(rest) or (
                self.channel is not None and self.channel.member_count > len(self.channel.members)
            )
            self._live = not watched
            self.add(*watched)
            await self.live()
        except BaseException:
            await self.close()
            raise
        return self

    def __await__(self) -> Generator[Any, None, ChannelWatch]:
        return self.open().__await__()

    async def __aenter__(self) -> ChannelWatch:
        return await self.open()

    async def _fetch(self, ids: Optional[list[str]]) -> dict[str, Any]:
        body = {**self._body, "presence": True}
        if ids is not None:
            body["users"] = ids
        answer = await self._calls.call("watch_channel", body)
        self.channel = parse_channel(answer.get("channel"))
        return answer

    async def _ask_channel(self, ids: list[str]) -> dict[str, User]:
        """Members by ``watch_channel``, ten a call; who is a member no longer is absent."""
        found: dict[str, User] = {}
        answer = await self._fetch(None)
        members = {user.id: user for user in self.channel.members} if self.channel else {}
        first = set((answer.get("presence") or {}).get("users", ()))
        found.update((id, members[id]) for id in ids if id in first and id in members)
        rest = [id for id in ids if id not in first and id in members]
        for start in range(0, len(rest), 10):
            chunk = rest[start : start + 10]
            await self._fetch(chunk)
            again = {user.id: user for user in self.channel.members} if self.channel else {}
            found.update((id, again[id]) for id in chunk if id in again)
        return found
