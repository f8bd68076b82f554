"""Tasks in the background whose failures are not lost, and the log of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Callable, Optional

from ._pace import clock
from .errors import Busy, Closed, Disconnected, NoAnswer, NoDaemon, PresenceError

log = logging.getLogger("presenced")

# An outage is over when nothing has failed for so long.
_QUIET = 3.0


def spawn(
    work: Coroutine[Any, Any, None], what: str, on_failure: Callable[[PresenceError], None]
) -> asyncio.Task[None]:
    """Runs something in the background. An error that it does not foresee is logged, too."""
    task = asyncio.ensure_future(work)

    def on_done(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, PresenceError):
            log.error("%s failed in an unforeseen way", what, exc_info=error)
            error = Closed(f"{what} failed in an unforeseen way: {error!r}")
        on_failure(error)

    task.add_done_callback(on_done)
    return task


def retrieve(task: asyncio.Task[Any]) -> None:
    """A done callback: asyncio logs no failure of the task, whether anybody waits for it or not."""
    if not task.cancelled():
        task.exception()


class Trouble:
    """Logs why something is tried again: each kind of failure once, until all is well again.

    A broken link is no trouble of its own: the link logs that, once for all.
    """

    def __init__(self, what: str, outage: Optional[Outage] = None) -> None:
        self._what = what
        self._outage = outage
        self._code: Optional[str] = None

    def note(self, error: PresenceError) -> None:
        if self._outage is not None and self._outage.holds(error):
            self._outage.note(error)
        elif error.code != self._code and not isinstance(error, (Closed, Disconnected)):
            self._code = error.code
            log.warning("%s is tried again: %s", self._what, error)

    def over(self) -> None:
        if self._code is not None:
            self._code = None
            log.info("%s is well again", self._what)

    def end(self, error: PresenceError) -> None:
        """Logs that it will not be tried again."""
        if not isinstance(error, Closed):
            log.warning("%s has ended: %s", self._what, error)


class Outage(Trouble):
    """Logs for all on one link, once, that the daemons do not answer or cannot serve."""

    def __init__(self) -> None:
        super().__init__("what the daemons are asked for")
        self._failed_at = float("-inf")

    @staticmethod
    def holds(error: PresenceError) -> bool:
        """Returns whether an error is of the daemons and concerns all requests."""
        busy = isinstance(error, Busy) and error.code != "contended"
        return busy or isinstance(error, (NoAnswer, NoDaemon))

    def note(self, error: PresenceError) -> None:
        self._failed_at = clock()
        super().note(error)

    def over(self) -> None:
        """Something was answered; where one of several daemons hangs, others still fail."""
        if clock() - self._failed_at >= _QUIET:
            super().over()
