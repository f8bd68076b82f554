"""One hub per door: what all its watches see, with one subscription per user.

The hub's one task subscribes, then queries; callbacks only merge. After a loss of the link, of
messages, or of trust, the old picture stays, marked stale, until it has been queried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from nats.aio.msg import Msg

from ._background import spawn
from ._calls import Calls, chunks, is_too_large
from ._link import Link, LinkEvent
from ._model import User, parse_event, parse_users
from ._pace import Backoff, clock, wait_set
from ._picture import Asked, Step
from ._slot import Slot, Source
from ._tokens import decode, encode
from .errors import Closed, Denied, PresenceError, Refused

if TYPE_CHECKING:
    from ._hub_watch import HubWatch

log = logging.getLogger("presenced")

_GATHER = 0.01
_LINGER = 1.0
_PER_QUERY = 100
_QUERIES = 4
#: An event that is newer than an answer is there after so long.
SETTLE = 2.5


def audit_pause(audit: Optional[float]) -> float:
    """Seconds until the next audit."""
    return (365 * 86400 if audit is None else audit) * random.uniform(0.8, 1.2)


def resync_pause(users: int) -> float:
    """Seconds over which resyncs of many clients are spread."""
    return random.uniform(0, 5.0 if users > 1000 else 1.0)


class Hub:
    def __init__(
        self, link: Link, calls: Calls, events: str, own: Optional[str], audit: Optional[float]
    ) -> None:
        self._link = link
        self._calls = calls
        self.events = events
        self.own = own
        self.audit = audit
        self.users: Source = Source(self.ask_users)
        self._slots: dict[str, Slot] = {}
        self._watching: dict[HubWatch, None] = {}
        # Slots to be looked at, so that a wake costs what has changed: those that may have to be
        # subscribed to or asked for, and those that nobody watches. Sources that failed last.
        self._dirty: dict[Slot, None] = {}
        self._unused: dict[Slot, None] = {}
        self._resting: set[Source] = set()
        self._wake = asyncio.Event()
        self._task: Optional[asyncio.Task[None]] = None
        self._queries: set[asyncio.Task[None]] = set()
        self._backoff = Backoff()
        self._not_before = 0.0
        self._audit_at = 0.0
        self._checks: list[tuple[float, str, int]] = []
        #: Foreign messages on event subjects, and events that the audit found missing.
        self.dropped: int = 0
        self.missed: int = 0
        link.listeners.append(self._on_link)

    # -- what watches ask for

    def acquire(self, watch: HubWatch, ids: Iterable[str]) -> None:
        self._link.check_begin()
        if self._task is None:
            self._link.start()
            self._plan_audit()
            self._task = spawn(self._run(), "the hub of watches", self._end_watches)
        self._watching[watch] = None
        for id in ids:
            slot = self._slots.get(id)
            if slot is None:
                slot = self._slots[id] = Slot(id, f"{self.events}.{encode(id)}")
            slot.add(watch)
            self._unused.pop(slot, None)
            self._dirty[slot] = None
        self._wake.set()

    def release(self, watch: HubWatch, ids: Iterable[str]) -> None:
        for id in ids:
            slot = self._slots.get(id)
            if slot is not None:
                slot.discard(watch)
                if not slot.watches:
                    slot.unused_since = clock()
                    self._unused[slot] = None
        self._wake.set()

    def forget(self, watch: HubWatch) -> None:
        """A watch has ended."""
        self._watching.pop(watch, None)

    def _look_at(self, slot: Slot) -> None:
        if self._slots.get(slot.entry.id) is slot:
            self._dirty[slot] = None
            self._wake.set()

    def slot(self, id: str) -> Optional[Slot]:
        return self._slots.get(id)

    def take_answer(self, user: User) -> None:
        """An answer that came by another way: the user's own view."""
        slot = self._slots.get(user.id)
        if slot is not None:
            self._spread(slot, slot.entry.on_answer(user, slot.entry.ask()))

    def resync(self) -> None:
        self._mark_stale()
        self._not_before = clock() + resync_pause(len(self._slots))
        self._wake.set()

    async def close(self) -> None:
        for watch in list(self._watching):
            watch._end(None)
        tasks = [*self._queries, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        subs = [slot.sub for slot in self._slots.values() if slot.sub is not None]
        self._slots.clear()
        self._dirty.clear()
        self._unused.clear()
        for sub in subs:
            await self._link.unsubscribe(sub)
        await asyncio.sleep(0)  # The tasks of the subscriptions end.

    # -- signals

    def _on_link(self, event: LinkEvent) -> None:
        if event is LinkEvent.UP:
            for slot in self._slots.values():
                slot.allow()
            self.resync()
        elif event is LinkEvent.DOWN:
            self._mark_stale()
        elif event is LinkEvent.DOUBT:
            self.resync()
        else:
            self._end_watches(Closed("the NATS connection is closed"))

    def _end_watches(self, error: PresenceError) -> None:
        for watch in list(self._watching):
            watch._end(error)
        self._wake.set()

    def _mark_stale(self) -> None:
        for slot in self._slots.values():
            slot.doubt()
        self._dirty = dict.fromkeys(self._slots.values())
        for watch in list(self._watching):
            watch._look()

    async def _on_message(self, message: Msg) -> None:
        id = decode(message.subject[len(self.events) + 1 :])
        slot = self._slots.get(id) if id is not None else None
        user = parse_event(message.data, id) if id is not None else None
        if slot is None or user is None:
            self.dropped += 1
        elif id == self.own:
            # Others see less than the user itself, whose own view is asked for.
            slot.entry.event_version = max(slot.entry.event_version, user.version)
            slot.doubt()
            self._look_at(slot)
        else:
            self._spread(slot, slot.entry.on_event(user))

    def _spread(self, slot: Slot, step: Optional[Step]) -> None:
        if step is not None:
            for watch in list(slot.watches):
                watch._sort(slot)
                watch._take(step)

    # -- the task

    async def _run(self) -> None:
        while not self._link.closed:
            await self._sleep()
            try:
                if not self._link.is_up:
                    await self._link.wait_up()
                await self._let_go()
                pause = self._not_before - clock()
                if pause > 0:
                    continue
                await asyncio.sleep(_GATHER)
                await self._subscribe()
                self._backoff.reset()
                self._start_queries()
                self._check_events()
            except Closed:
                return
            except PresenceError as error:
                self._fail(error)

    async def _sleep(self) -> None:
        """Until something is to be done."""
        times = [self._audit_at, *(at for at, _, _ in self._checks[:1])]
        now = clock()
        self._resting = {source for source in self._resting if source.not_before > now}
        times += [source.not_before for source in self._resting]
        if self._not_before > now:
            times.append(self._not_before)
        if self._unused:
            times.append(now + _LINGER)
        await wait_set(self._wake, max(0.0, min(times) - clock()))
        self._wake.clear()

    async def _let_go(self) -> None:
        for slot in list(self._unused):
            if clock() - slot.unused_since >= _LINGER:
                del self._unused[slot], self._slots[slot.entry.id]
                self._dirty.pop(slot, None)
                if slot.sub is not None:
                    await self._link.unsubscribe(slot.sub)

    async def _subscribe(self) -> None:
        wanted = [
            slot for slot in self._dirty if not slot.denied and not self._link.holds(slot.sub)
        ]
        for slots in chunks(wanted, _PER_QUERY):
            chunk = {slot.subject: slot for slot in slots}
            made = await self._link.subscribe(list(chunk), self._on_message)
            for subject, sub in made.items():
                slot = chunk[subject]
                slot.sub = sub
                if sub is None:
                    slot.deny()
                    log.warning("NATS refuses the subscription to %s", subject)
                    for watch in list(slot.watches):
                        watch._look()

    def _start_queries(self) -> None:
        wanted = [
            slot
            for slot in self._dirty
            if slot.sub is not None and slot.asking is None and not slot.fresh
        ]
        unheard = (s for s in self._dirty if not s.denied and not self._link.holds(s.sub))
        self._dirty = dict.fromkeys([*wanted, *unheard])
        groups: dict[Source, list[Slot]] = {}
        for slot in wanted:
            source = self._source_of(slot)
            if source is not None and source.not_before <= clock():
                groups.setdefault(source, []).append(slot)
        for source, slots in groups.items():
            for chunk in chunks(slots, _PER_QUERY):
                if len(self._queries) >= _QUERIES:
                    return  # The others stay to be looked at.
                for slot in chunk:
                    self._dirty.pop(slot, None)
                self._begin(self._query(source, chunk))

    def _source_of(self, slot: Slot) -> Optional[Source]:
        """Whom to ask for a user; None if all have answered."""
        return self._best(slot.unanswered)

    def _best(self, sources: set[Source]) -> Optional[Source]:
        """The source that may be asked first: who knows all users, if there is the choice."""
        now = clock()
        return min(
            sources,
            key=lambda source: (max(source.not_before, now), source is not self.users),
            default=None,
        )

    def _begin(self, query: Coroutine[Any, Any, None]) -> None:
        task = spawn(query, "a query", self._fail)
        self._queries.add(task)
        task.add_done_callback(self._on_query_done)

    def _on_query_done(self, task: asyncio.Task[None]) -> None:
        self._queries.discard(task)
        self._wake.set()

    async def _query(self, source: Source, slots: Sequence[Slot]) -> None:
        asked = [(slot, slot.entry.ask()) for slot in slots]
        for slot in slots:
            slot.begin(source)
        done = False
        try:
            found = await source.ask([slot.entry.id for slot in slots])
            done = True
        except PresenceError as error:
            done = isinstance(error, Denied) and source is self.users
            if done:
                self._deny(slots, error)
            else:
                self._on_failure(source, error)
            return
        finally:
            for slot in slots:
                slot.end(source, done)
                self._look_at(slot)
        source.backoff.reset()
        for slot, when in asked:
            self._take_found(source, slot, found, when)
        for watch in {watch for slot in slots for watch in slot.watches}:
            watch._look()

    def _take_found(
        self, source: Source, slot: Slot, found: Mapping[str, Optional[User]], when: Asked
    ) -> None:
        id, is_absent = slot.entry.id, slot.entry.id not in found
        user = found.get(id)
        # Who is no member of a channel: that says nothing to others who watch the user.
        if user is not None or (is_absent and source is self.users):
            self._spread(slot, slot.entry.on_answer(user, when))
        for watch in list(slot.watches):
            if watch._source is source:
                watch._set_left(id, is_absent and source is not self.users)

    def _deny(self, slots: Sequence[Slot], error: PresenceError) -> None:
        for slot in slots:
            slot.deny()
            for watch in list(slot.watches):
                watch._look(error)

    def _on_failure(self, source: Source, error: PresenceError) -> None:
        """Ends the watch of a channel that is refused; else there is another try."""
        ends = source is not self.users and isinstance(error, (Refused, Denied))
        source.not_before = clock() + source.backoff.next_pause(error.retry_after)
        self._resting.add(source)
        for watch in list(self._watching):
            if watch._source is source:
                if ends:
                    watch._end(error)
                else:
                    watch._note(error)
        self._wake.set()

    def _fail(self, error: PresenceError) -> None:
        for watch in list(self._watching):
            watch._note(error)
        self._not_before = clock() + self._backoff.next_pause(error.retry_after)
        self._wake.set()

    # -- the audit: whether events arrive

    def _plan_audit(self) -> None:
        self._audit_at = clock() + audit_pause(self.audit)

    def _check_events(self) -> None:
        if clock() >= self._audit_at:
            self._plan_audit()
            if not self._checks:
                for watch in list(self._watching):
                    watch._on_audits()
            slots = [s for s in self._slots.values() if s.watches and s.fresh and not s.asking]
            if slots and len(self._queries) < _QUERIES:
                chunk = sorted(slots, key=lambda slot: (slot.audited_at, slot.entry.id))
                self._begin(self._audit_chunk(chunk[:_PER_QUERY]))
        while self._checks and self._checks[0][0] <= clock():
            _, id, version = self._checks.pop(0)
            slot = self._slots.get(id)
            if slot is not None and slot.entry.event_version < version:
                self.missed += 1
                log.warning("events of %s do not arrive: a permission, or dropped messages?", id)
                for watch in list(slot.watches):
                    watch._degrade(slot.subject)
                self.resync()

    async def _audit_chunk(self, slots: list[Slot]) -> None:
        """Asks for those of the slots that can be asked for together with the first."""
        source = self._best({watch._source for watch in slots[0].watches})
        if source is None:
            return
        slots = [slot for slot in slots if any(w._source is source for w in slot.watches)]
        versions = {slot.entry.id: slot.entry.version for slot in slots}
        for slot in slots:
            slot.audited_at = clock()
        await self._query(source, slots)
        for slot in slots:
            id = slot.entry.id
            if slot.entry.version > versions[id] and id != self.own:
                self._checks.append((clock() + SETTLE, id, slot.entry.version))

    async def ask_users(self, ids: Sequence[str]) -> dict[str, User]:
        """Users by ``query_users``; who are too many for one answer, by several."""
        body = {"filter": {"id": {"$in": list(ids)}}, "limit": _PER_QUERY, "presence": True}
        try:
            answer = await self._calls.call("query_users", body)
        except Refused as error:
            if not is_too_large(error, len(ids)):
                raise
            half = len(ids) // 2
            return {**await self.ask_users(ids[:half]), **await self.ask_users(ids[half:])}
        return {user.id: user for user in parse_users(answer)}
