"""The task of a watch that looks for its users itself: it asks, rests, and asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Callable, Optional

from ._background import Trouble, spawn
from ._hub import resync_pause
from ._link import Link, LinkEvent
from ._model import WatchState
from ._pace import Backoff, pause_after
from .errors import Closed, Denied, PresenceError
from .watch import Watch

Step = Callable[[], Awaitable[None]]


class Rounds:
    """``ask`` is one round, ``rest`` waits for the next, which ``due`` has begin at once. ``leave``
    is what is to be done at the end.

    A failure is noted and tried again; a refused permission, after the next reconnect. After a loss
    of the link or of messages the next round is spread, as those of many clients come together.
    """

    def __init__(
        self, link: Link, watch: Watch, ask: Step, rest: Step, leave: Optional[Step] = None
    ) -> None:
        self._link = link
        self._watch = watch
        self._ask = ask
        self._rest = rest
        self._leave = leave
        self._backoff = Backoff()
        self._trouble = Trouble(f"a {type(watch).__name__}", link.outage)
        self._task: Optional[asyncio.Task[None]] = None
        self._lost = False
        self.due = asyncio.Event()
        self.denied = False

    def start(self) -> None:
        self._link.check_begin()
        self._link.start()
        self._link.listeners.append(self._on_link)
        self._task = spawn(self._run(), f"a {type(self._watch).__name__}", self._watch._end)

    def stop(self) -> None:
        if self._on_link in self._link.listeners:
            self._link.listeners.remove(self._on_link)
        if self._task is not None:
            self._task.cancel()

    def _on_link(self, event: LinkEvent) -> None:
        if event is LinkEvent.CLOSED:
            self._watch._end(Closed("the NATS connection is closed"))
        else:
            self._lost = True
            self.doubt()

    def doubt(self) -> None:
        """Has what is known asked for again, as it may be old."""
        self.due.set()
        self._watch._doubt()

    async def _run(self) -> None:
        try:
            await self._go_round()
        finally:
            if self._leave is not None:
                await self._leave()

    async def _go_round(self) -> None:
        while True:
            try:
                await self._link.wait_up()
                if self._lost:
                    self._lost = False
                    await asyncio.sleep(resync_pause(len(self._watch)))
                self.due.clear()
                await self._ask()
                self.denied = False
                self._backoff.reset()
                self._trouble.over()
                await self._rest()
            except Denied as error:
                self.denied = True
                if self._watch._was_live:  # Else the error is raised.
                    self._trouble.note(error)
                self._watch._note(error)
                self._watch._set(WatchState.DENIED)
                await self.due.wait()
            except PresenceError as error:
                if not error.retryable:
                    if self._watch._was_live:  # Else the error is raised.
                        self._trouble.end(error)
                    self._watch._end(error)
                    return
                self._trouble.note(error)
                self._watch._note(error)
                await asyncio.sleep(pause_after(error, self._backoff))
