"""Times: the clock, deadlines, back-off with full jitter, and the pace of heartbeats."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Optional

from .errors import NoAnswer, NoDaemon, PresenceError

#: A try of a request, and an unanswered PING, last so long.
TRY_TIMEOUT = 2.5
#: A call is given up after so long.
CALL_TIMEOUT = 10.0
#: A close tries so long to disconnect; what no daemon hears of lapses with its lease.
LAST_DISCONNECT = 2.0
#: A try of it: another daemon may answer where one hangs, and a repeat is harmless.
LAST_TRY = 0.4

_FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
# Answers missing in a row after which the daemons are silent.
_MISSING = 2


def clock() -> float:
    """Monotonic seconds that, where the system tells, also pass while the machine sleeps."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


async def wait_set(event: asyncio.Event, timeout: Optional[float]) -> bool:
    """Waits until an event is set, or for a time.

    ``asyncio.wait_for`` before Python 3.12 loses a cancellation that comes together with the event.
    """
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiter}, timeout=timeout)
    finally:
        waiter.cancel()
    return event.is_set()


class Backoff:
    """Pauses between tries: full jitter, from 0.2 s up to 10 s, never less than was asked for."""

    def __init__(self) -> None:
        self._ceiling = _FIRST_PAUSE

    def reset(self) -> None:
        self._ceiling = _FIRST_PAUSE

    def next_pause(self, at_least: Optional[float] = None, at_most: float = LONGEST_PAUSE) -> float:
        pause = random.uniform(0, min(self._ceiling, at_most))
        self._ceiling = min(self._ceiling * 2, LONGEST_PAUSE)
        return max(pause, at_least or 0.0)


def pause_after(error: PresenceError, backoff: Backoff, at_most: float = LONGEST_PAUSE) -> float:
    """Seconds to wait after a failed try: ``at_most`` where the daemon asks for no more."""
    if isinstance(error, NoDaemon):
        return random.uniform(0.1, 1.0)
    return backoff.next_pause(error.retry_after, at_most)


class Answers:
    """How many answers of daemons a door has heard."""

    def __init__(self) -> None:
        self.number = 0


class Silence:
    """Whether the daemons are silent: some requests in a row went without an answer, and no other
    of the door was answered meanwhile: where one of several daemons hangs, nothing lapses."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._missing = 0
        self._number = 0

    def on_answer(self) -> None:
        self._missing = 0

    def on_error(self, error: PresenceError) -> bool:
        """Whether they are silent after this; an error that is not about silence is an answer."""
        is_heard = self._number != self._answers.number
        self._number = self._answers.number
        self._missing = (1 if is_heard else self._missing + 1) if isinstance(error, NoAnswer) else 0
        return self._missing >= _MISSING


@dataclass
class Pace:
    """The pace of heartbeats, as the daemon's answers say."""

    interval: float = 20.0
    lease: float = 60.0

    def take(self, answer: Any) -> None:
        """Adopts the ``heartbeat`` of an answer; daemons of older versions send none."""
        heartbeat = answer.get("heartbeat")
        if not isinstance(heartbeat, dict):
            return
        interval, lease = heartbeat.get("interval_ms"), heartbeat.get("lease_ms")
        if isinstance(interval, (int, float)) and interval > 0:
            self.interval = interval / 1000
        if isinstance(lease, (int, float)) and lease > 0:
            self.lease = lease / 1000

    def next_interval(self) -> float:
        return self.interval * random.uniform(0.9, 1.0)
