"""Watches of users by their ids, whom the hub of a door follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Optional

from ._hub import Hub
from ._model import WatchState
from ._picture import Step
from ._questions import Ask, Source
from ._slot import Slot, Standing
from ._tokens import ids_of
from .errors import Closed, PresenceError
from .watch import UNKNOWN, Watch


class HubWatch(Watch):
    """A watch of those ids that its kind adds."""

    def __init__(self, hub: Hub, ask: Optional[Ask] = None) -> None:
        super().__init__()
        self._hub = hub
        self._source = hub.users if ask is None else Source(ask, hub.outage)
        self._watched: dict[str, None] = {}
        # What there is of each, and of how many: adding one does not look at the others.
        self._standings: dict[str, Standing] = {}
        self._counts = dict.fromkeys(Standing, 0)
        self._left: set[str] = set()  # Who is watched, and in no answer of the own source.
        self._complete = False  # Whether it is known who is to be watched.

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._watched)

    @property
    def denied(self) -> frozenset[str]:
        """Ids whose events or queries NATS refuses to this login."""
        return frozenset(slot.entry.id for slot in self._slots() if slot.denied)

    def _ids(self) -> Iterator[str]:
        return iter(self._watched)

    def _find(self, id: str) -> Any:
        if id in self._left:
            return None
        slot = self._hub.slot(id) if id in self._watched else None
        known = slot is not None and slot.entry.known and not slot.denied
        return slot.entry.user if slot is not None and known else UNKNOWN

    def _has_left(self, id: str) -> bool:
        return id not in self._watched

    def _slots(self) -> list[Slot]:
        return [slot for slot in map(self._hub.slot, self._watched) if slot is not None]

    def _add(self, ids: Iterable[str]) -> None:
        if self._state is WatchState.CLOSED:
            raise Closed("the watch is closed")
        new = [id for id in dict.fromkeys(ids_of(ids)) if id not in self._watched]
        self._hub.acquire(self, new)
        for id in new:
            self._watched[id] = None
            slot = self._hub.slot(id)
            if slot is not None:
                self._sort(slot)
            if id in self._pending:
                continue  # It was removed, and the reader does not know yet.
            if self._find(id) is not UNKNOWN:
                self._pending[id] = None  # Others watch it: the reader is told all the same.
        self._look()

    def _release(self, ids: Iterable[str]) -> list[str]:
        old = [id for id in dict.fromkeys(ids) if id in self._watched]
        for id in old:
            del self._watched[id]
            standing = self._standings.pop(id, None)
            if standing is not None:
                self._counts[standing] -= 1
            self._left.discard(id)
        self._hub.release(self, old)
        return old

    def _take(self, step: Step) -> None:
        if step.id in self._watched and step.id not in self._left:
            super()._take(step)

    def _set_left(self, id: str, left: bool) -> None:
        """Takes the answer of the own source; it is news if it is not what was known."""
        if id not in self._watched or left == (id in self._left):
            return
        before = self._find(id)
        (self._left.add if left else self._left.discard)(id)
        first = before is UNKNOWN
        super()._take(Step(id, None if first else before, self._find(id), first))

    def _look(self, error: Optional[PresenceError] = None) -> None:
        """Finds the state again; the hub has other news of its users."""
        if error is not None:
            self._note(error)
        counts = self._counts
        if counts[Standing.DENIED] and counts[Standing.DENIED] == len(self._standings):
            self._set(WatchState.DENIED)
        elif self._complete and self._is_fresh():
            self._set(WatchState.LIVE)
        elif not self._was_live:
            self._set(WatchState.LOADING)
        elif not self._complete or counts[Standing.STALE]:
            self._set(WatchState.STALE)

    def _sort(self, slot: Slot) -> None:
        """Counts a user under what there is of it now."""
        id = slot.entry.id
        if id not in self._watched:
            return
        before = self._standings.get(id)
        standing = self._standings[id] = slot.standing(self._source, self._hub.own)
        if before is not None:
            self._counts[before] -= 1
        self._counts[standing] += 1

    def _on_audits(self) -> None:
        """All audits so far are decided: after a round of them without a miss all is well."""
        if self.degraded and all(
            slot.audited_at > self._degraded_at for slot in self._slots() if not slot.denied
        ):
            self.degraded = None

    def _is_fresh(self) -> bool:
        return not (self._counts[Standing.ASKED] or self._counts[Standing.STALE])

    def _end(self, error: Optional[PresenceError]) -> None:
        if self._state is not WatchState.CLOSED:
            super()._end(error)
            self._hub.release(self, list(self._watched))
            self._hub.forget(self)


class UserWatch(HubWatch):
    """A watch of users that are named: made by ``watch``."""

    def __init__(self, hub: Hub, ids: Iterable[str]) -> None:
        super().__init__(hub)
        self._wanted = ids_of(ids)

    async def _begin(self) -> None:
        self._complete = True
        self._add(self._wanted)

    def add(self, *ids: str) -> None:
        """Watches more users: each is a change once it is known, for which ``live`` waits."""
        self.check_loop()
        self._add(ids)

    def remove(self, *ids: str) -> None:
        """Watches some users no longer."""
        self.check_loop()
        for id in self._release(ids_of(ids)):
            self._shown.pop(id, None)
            self._pending.pop(id, None)
        self._look()
