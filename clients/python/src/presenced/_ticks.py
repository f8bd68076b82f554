"""One clock for all links of an event loop: many clients cost one timer, not one each."""

from __future__ import annotations

import asyncio
import weakref
from typing import Protocol

from ._pace import clock

PERIOD = 0.25
# A tick so late means that the machine slept or the loop was blocked.
_LATE = 5.0


class Ticking(Protocol):
    def tick(self, late: bool) -> None:
        """Called in each period; ``late`` after a long time without. It raises nothing."""


class Ticks:
    """Holds neither its loop nor who is told: a loop that was closed meanwhile goes with them."""

    def __init__(self) -> None:
        self._told: weakref.WeakSet[Ticking] = weakref.WeakSet()
        self._runs = False
        self._at = 0.0

    def add(self, who: Ticking) -> None:
        self._told.add(who)
        if not self._runs:
            self._runs = True
            self._plan()

    def discard(self, who: Ticking) -> None:
        self._told.discard(who)

    def _plan(self) -> None:
        self._at = clock()
        asyncio.get_running_loop().call_later(PERIOD, self._tick)

    def _tick(self) -> None:
        late = clock() - self._at > PERIOD + _LATE
        for each in list(self._told):
            each.tick(late)
        self._runs = bool(self._told)
        if self._runs:
            self._plan()


_ticks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Ticks] = weakref.WeakKeyDictionary()


def ticks() -> Ticks:
    """Those of the running loop."""
    return _ticks.setdefault(asyncio.get_running_loop(), Ticks())
