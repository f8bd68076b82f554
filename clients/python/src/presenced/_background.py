"""Tasks in the background whose failures are not lost, and the log of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Callable, Optional

from .errors import Closed, Disconnected, PresenceError

log = logging.getLogger("presenced")


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

    def __init__(self, what: str) -> None:
        self._what = what
        self._code: Optional[str] = None

    def note(self, error: PresenceError) -> None:
        if error.code != self._code and not isinstance(error, (Closed, Disconnected)):
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
