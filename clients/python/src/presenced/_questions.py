"""The questions of a hub: whom to ask for which of its users, and what the answers say.

A user may be asked for by several sources, as each channel knows its own members. One question
holds at most 100 users, and at most four are under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from ._background import Outage, Trouble, spawn
from ._calls import chunks
from ._model import User
from ._pace import Backoff, clock
from ._picture import Asked
from ._slot import Slot
from .errors import Denied, PresenceError, Refused

if TYPE_CHECKING:
    from ._hub import Hub

PER_QUERY = 100
_QUERIES = 4

#: Asks for users. Those who are missing in the result do not exist; None: they do, but this login
#: is not shown more.
Ask = Callable[[Sequence[str]], Awaitable[Mapping[str, Optional[User]]]]


class Source:
    """One way to ask for users, with a back-off of its own."""

    def __init__(self, ask: Ask, outage: Outage) -> None:
        self.ask = ask
        self.not_before: float = 0.0
        self.backoff: Backoff = Backoff()
        self.trouble: Trouble = Trouble("a question for users", outage)


class Questions:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: set[Source] = set()  # Those that failed last.

    @property
    def has_room(self) -> bool:
        """Whether another may begin."""
        return len(self._tasks) < _QUERIES

    def times(self, now: float) -> list[float]:
        """The times at which sources that failed may be asked again."""
        self._resting = {source for source in self._resting if source.not_before > now}
        return [source.not_before for source in self._resting]

    def start(self, wanted: Sequence[Slot]) -> list[Slot]:
        """Asks for users; returns those who are to be looked at again, as they were not asked for
        yet."""
        groups: dict[Source, list[Slot]] = {}
        waiting = dict.fromkeys(wanted)
        for slot in wanted:
            source = self.best(slot.unanswered)
            if source is not None and source.not_before <= clock():
                groups.setdefault(source, []).append(slot)
        for source, slots in groups.items():
            for chunk in chunks(slots, PER_QUERY):
                if not self.has_room:
                    return list(waiting)
                for slot in chunk:
                    del waiting[slot]
                self.begin(self.ask(source, chunk))
        return list(waiting)

    def best(self, sources: set[Source]) -> Optional[Source]:
        """The source that may be asked first: who knows all users, if there is the choice."""
        now, users = clock(), self._hub.users
        return min(
            sources,
            key=lambda source: (max(source.not_before, now), source is not users),
            default=None,
        )

    def begin(self, question: Coroutine[Any, Any, None]) -> None:
        task = spawn(question, "a question for users", self._hub.fail)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._hub.wake.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, source: Source, slots: Sequence[Slot]) -> None:
        """One question."""
        asked = [(slot, slot.entry.ask()) for slot in slots]
        for slot in slots:
            slot.begin(source)
        done = False
        try:
            found = await source.ask([slot.entry.id for slot in slots])
            done = True
        except PresenceError as error:
            done = isinstance(error, Denied) and source is self._hub.users
            if done:
                self._deny(slots, error)
            else:
                self._on_failure(source, error)
            return
        finally:
            for slot in slots:
                slot.end(source, done)
                self._hub.look_at(slot)
        source.backoff.reset()
        source.trouble.over()
        for slot, when in asked:
            self._take_found(source, slot, found, when)
        for watch in {watch for slot in slots for watch in slot.watches}:
            watch._look()

    def _take_found(
        self, source: Source, slot: Slot, found: Mapping[str, Optional[User]], when: Asked
    ) -> None:
        id, is_absent = slot.entry.id, slot.entry.id not in found
        user, knows_all = found.get(id), source is self._hub.users
        if user is not None:
            self._hub.look_at_own(user, when)
        # Who is no member of a channel: that says nothing to others who watch the user.
        if user is not None or (is_absent and knows_all):
            slot.spread(slot.entry.on_answer(user, when))
        for watch in list(slot.watches):
            if watch._source is source:
                watch._set_left(id, is_absent and not knows_all)

    def _deny(self, slots: Sequence[Slot], error: PresenceError) -> None:
        for slot in slots:
            slot.deny()
            for watch in list(slot.watches):
                watch._look(error)

    def _on_failure(self, source: Source, error: PresenceError) -> None:
        """Ends the watch of a channel that is refused; else there is another try."""
        ends = source is not self._hub.users and isinstance(error, (Refused, Denied))
        source.not_before = clock() + source.backoff.next_pause(error.retry_after)
        if not ends:
            source.trouble.note(error)
        self._resting.add(source)
        for watch in list(self._hub.watching):
            if watch._source is source:
                if ends:
                    if watch._was_live:  # Else the error is raised.
                        source.trouble.end(error)
                    watch._end(error)
                else:
                    watch._note(error)
        self._hub.wake.set()
