"""Watches of the users that a filter finds: asked for at intervals, and after changes."""

from __future__ import annotations

import asyncio
from typing import Optional

from ._hub import Hub
from ._hub_watch import HubWatch
from ._link import Link
from ._pace import clock, wait_set
from ._picture import Step, question
from ._query import UserQuery
from ._rounds import Rounds
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

    def __init__(self, hub: Hub, link: Link, query: UserQuery) -> None:
        super().__init__(hub)
        self._query = query
        self._doubts = 0
        self._rounds = Rounds(link, self, self._ask, self._rest)

    async def _begin(self) -> None:
        self._rounds.start()

    async def _ask(self) -> None:
        self._asked_at, doubts = clock(), self._doubts
        asked, found = question(), [user async for user in self._query]
        is_due = self._rounds.due.is_set()
        self._hub.take_answers(found, asked)
        if not is_due:
            self._rounds.due.clear()  # What was found just now still matches.
        self._complete = doubts == self._doubts
        self._adopt([user.id for user in found])

    async def _rest(self) -> None:
        if await wait_set(self._rounds.due, _INTERVAL):
            await asyncio.sleep(max(0.0, self._asked_at + _AFTER_CHANGE - clock()))

    def _adopt(self, found: list[str]) -> None:
        for id in self._release(set(self._watched).difference(found)):
            self._pending[id] = None
        self._add(found)

    def _take(self, step: Step) -> None:
        super()._take(step)
        if step.id in self._watched:
            self._rounds.due.set()

    def _doubt(self) -> None:
        """Others may match now: it is stale until the filter was asked for again."""
        self._doubts += 1
        self._complete = False
        self._look()

    def _look(self, error: Optional[PresenceError] = None) -> None:
        if not self._rounds.denied:
            super()._look(error)

    def _end(self, error: Optional[PresenceError]) -> None:
        super()._end(error)
        self._rounds.stop()
