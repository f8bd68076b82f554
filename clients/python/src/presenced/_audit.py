"""The audit of a hub: whether events arrive.

At intervals some users are asked for. Who is newer in the answer than by event is missed, unless
that event comes soon: all is asked for again, and its watches say that events may be missing.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Optional

from ._pace import clock
from ._questions import PER_QUERY, Questions
from ._slot import Slot

if TYPE_CHECKING:
    from ._hub import Hub

log = logging.getLogger("presenced")

#: An event that is newer than an answer is there after so long.
SETTLE = 2.5
_YEAR = 365 * 86400.0


def audit_pause(every: Optional[float]) -> float:
    """Seconds until the next audit."""
    return (_YEAR if every is None else every) * random.uniform(0.8, 1.2)


class Audit:
    def __init__(self, hub: Hub, questions: Questions, every: Optional[float]) -> None:
        self._hub = hub
        self._questions = questions
        self.every = every
        self._at = 0.0
        self._checks: list[tuple[float, str, int]] = []  # When, whose event, and its version.

    def plan(self) -> None:
        self._at = clock() + audit_pause(self.every)

    def times(self) -> list[float]:
        """The times at which there is something to be done."""
        return [self._at, *(at for at, _, _ in self._checks[:1])]

    def run(self) -> None:
        """Does what is due."""
        if clock() >= self._at:
            self.plan()
            if not self._checks:
                for watch in list(self._hub.watching):
                    watch._on_audits()
            slots = [s for s in self._hub.slots.values() if s.watches and s.fresh and not s.asking]
            if slots and self._questions.has_room:
                slots.sort(key=lambda slot: (slot.audited_at, slot.entry.id))
                self._questions.begin(self._ask(slots[:PER_QUERY]))
        while self._checks and self._checks[0][0] <= clock():
            _, id, version = self._checks.pop(0)
            slot = self._hub.slots.get(id)
            if slot is not None and slot.entry.event_version < version:
                self._miss(slot)

    async def _ask(self, slots: list[Slot]) -> None:
        """Asks for those of the slots that can be asked for together with the first."""
        source = self._questions.best(slots[0].sources)
        if source is None:
            return
        slots = [slot for slot in slots if source in slot.sources]
        versions = {slot.entry.id: slot.entry.version for slot in slots}
        for slot in slots:
            slot.audited_at = clock()
        await self._questions.ask(source, slots)
        for slot in slots:
            id = slot.entry.id
            if slot.entry.version > versions[id]:
                self.expect(slot, slot.entry.version)

    def expect(self, slot: Slot, version: int) -> None:
        """An answer has a newer version than what is known: its event has to come."""
        if self.every is not None and slot.entry.id != self._hub.own:
            self._checks.append((clock() + SETTLE, slot.entry.id, version))
            self._hub.wake.set()

    def expect_none(self) -> None:
        """Events may be lost with the link: all is asked for again."""
        self._checks.clear()

    def _miss(self, slot: Slot) -> None:
        self._hub.missed += 1
        subject = slot.subject
        log.warning("events on %s do not arrive: a permission, or dropped messages?", subject)
        for watch in list(slot.watches):
            watch._degrade(subject)
        self._hub.resync()
