"""Tasks in the background, whose failures are not lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Callable

from .errors import Closed, PresenceError

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
