"""Watches of the users that a filter finds: asked for at intervals, and after changes."""

from __future__ import annotations

import asyncio
import random
from typing import Optional

from ._background import spawn
from ._hub import Hub
from ._hub_watch import HubWatch
from ._link import Link, LinkEvent
from ._pace import Backoff, clock, pause_after, wait_set
from ._picture import Step
from ._query import UserQuery
from .errors import PresenceError

# How often users are looked for whose changes are not heard, as they are not watched.
_INTERVAL = 10.0
# How soon after a change of a watched user it is asked whether that still matches.
_AFTER_CHANGE = 1.0


class MatchingWatch(HubWatch):
    """A watch of the first users that match a filter: made by ``watch_where``.

    Who matches no longer leaves the mapping, with a change of the kind ``gone``. Whether a watched
    user still matches is asked a second after it changed; others are looked for every 10 seconds.
    """

    _announces_new = True

    def __init__(self, hub: Hub, link: Link, query: UserQuery) -> None:
        super().__init__(hub)
        self._link = link
        self._query = query
        self._changed = asyncio.Event()
        self._backoff = Backoff()
        self._task: Optional[asyncio.Task[None]] = None

    async def _begin(self) -> None:
        self._link.listeners.append(self._on_link)
        self._task = spawn(self._run(), "a watch of those who match", self._end)

    async def _run(self) -> None:
        while True:
            try:
                await self._link.wait_up()
                self._changed.clear()
                found = [user.id async for user in self._query]
            except PresenceError as error:
                if not error.retryable:
                    self._end(error)
                    return
                self._note(error)
                await asyncio.sleep(pause_after(error, self._backoff))
                continue
            self._backoff.reset()
            self._adopt(found)
            earliest = clock() + _AFTER_CHANGE
            if await wait_set(self._changed, _INTERVAL):
                await asyncio.sleep(max(0.0, earliest - clock()))

    def _adopt(self, found: list[str]) -> None:
        for id in self._release(set(self._watched).difference(found)):
            self._pending[id] = None
        self._complete = True
        self._add(found)

    def _on_link(self, event: LinkEvent) -> None:
        if event is LinkEvent.UP:
            asyncio.get_running_loop().call_later(random.random(), self._changed.set)
        elif event is LinkEvent.CLOSED:
            self._end(None)

    def _take(self, step: Step) -> None:
        super()._take(step)
        if step.id in self._watched:
            self._changed.set()

    def _end(self, error: Optional[PresenceError]) -> None:
        super()._end(error)
        if self._on_link in self._link.listeners:
            self._link.listeners.remove(self._on_link)
        if self._task is not None:
            self._task.cancel()
