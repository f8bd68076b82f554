"""One request of a user at a time: requests are shared among daemons, and overtake each other.

A request whose caller is cancelled may be carried out all the same. So a turn lasts until it was
answered or its time is over, even if nobody waits any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Callable, Optional, TypeVar

from ._background import retrieve
from ._pace import clock

T = TypeVar("T")


class Turn:
    """The right to send requests of some users, until its holder and its requests have ended."""

    def __init__(self, turns: Turns, users: Sequence[str]) -> None:
        self._turns = turns
        self._users = users
        self._holders = 1

    def keep_for(self, request: asyncio.Task[Any]) -> None:
        self._holders += 1
        request.add_done_callback(lambda _: self.end())

    def end(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._turns.leave(self._users)


class Turns:
    """The turns at one door."""

    def __init__(self) -> None:
        # Users with a turn, and who waits for the next.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._requests: set[asyncio.Task[Any]] = set()
        #: Who is told when a user has no turn any more and nobody waits for one.
        self.on_free: list[Callable[[str], None]] = []

    def is_free(self, user: str) -> bool:
        return user not in self._waiting

    def take(self, user: str) -> Optional[Turn]:
        """A turn now, or none."""
        if not self.is_free(user):
            return None
        self._waiting[user] = deque()
        return Turn(self, [user])

    @asynccontextmanager
    async def held(
        self, users: Iterable[str], until: Optional[float] = None
    ) -> AsyncIterator[Optional[Turn]]:
        """Holds a turn of all the users; None if it does not come until then."""
        held: list[str] = []
        turn: Optional[Turn] = None
        try:
            # All who want several wait for them in the same order.
            for user in sorted(set(users)):
                if not await self._enter(user, until):
                    break
                held.append(user)
            else:
                turn, held = Turn(self, held), []
        finally:
            self.leave(held)
        try:
            yield turn
        finally:
            if turn is not None:
                turn.end()

    async def _enter(self, user: str, until: Optional[float]) -> bool:
        waiting = self._waiting.get(user)
        if waiting is None:
            self._waiting[user] = deque()
            return True
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(place)
        timeout = None if until is None else max(0.0, until - clock())
        try:
            await asyncio.wait({place}, timeout=timeout)
        except asyncio.CancelledError:
            if not place.cancel():
                self.leave([user])  # It came together with the cancellation.
            raise
        return not place.cancel()

    def leave(self, users: Iterable[str]) -> None:
        for user in users:
            waiting = self._waiting[user]
            while waiting:
                place = waiting.popleft()
                if not place.done():
                    place.set_result(None)
                    break
            else:
                del self._waiting[user]
                for tell in list(self.on_free):
                    tell(user)

    async def run(self, turns: Iterable[Turn], request: Coroutine[Any, Any, T]) -> T:
        """Runs a request within turns, which last until it ends, also if this is cancelled."""
        task = asyncio.ensure_future(request)
        task.add_done_callback(retrieve)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        for turn in turns:
            turn.keep_for(task)
        await asyncio.wait({task})
        return task.result()

    async def close(self) -> None:
        """Waits for what is under way; the link has given it up."""
        await asyncio.gather(*self._requests, return_exceptions=True)
