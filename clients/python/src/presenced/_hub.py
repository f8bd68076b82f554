"""One hub per door: what all its watches see, with one subscription per user.

The hub's one task subscribes, then queries; callbacks only merge. After a loss of the link, of
messages, or of trust, the old picture stays, marked stale, until it has been queried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from ._audit import Audit
from ._background import Outage, Trouble, spawn
from ._calls import Calls, chunks, is_too_large
from ._link import Link, LinkEvent
from ._model import Me, User, parse_event, parse_users
from ._nats import Msg
from ._pace import Backoff, clock, wait_set
from ._picture import Asked, question
from ._questions import PER_QUERY, Questions, Source
from ._slot import Slot
from ._tokens import decode, encode
from .errors import Closed, PresenceError, Refused

if TYPE_CHECKING:
    from ._hub_watch import HubWatch

log = logging.getLogger("presenced")

_GATHER = 0.01
# How often an invisible user's own view is asked for: its changes are no events.
_OWN_AGAIN = 10.0
_LINGER = 1.0


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
        self.outage: Outage = link.outage
        self.users: Source = Source(self.ask_users, link.outage)
        self.slots: dict[str, Slot] = {}
        self.watching: dict[HubWatch, None] = {}
        self.wake: asyncio.Event = asyncio.Event()
        self._questions = Questions(self)
        self.audit: Audit = Audit(self, self._questions, audit)
        # Slots to be looked at, so that a wake costs what has changed: those that may have to be
        # subscribed to or asked for, and those that nobody watches.
        self._dirty: dict[Slot, None] = {}
        self._unused: dict[Slot, None] = {}
        self._task: Optional[asyncio.Task[None]] = None
        self._backoff = Backoff()
        self._trouble = Trouble("the watching of users", link.outage)
        self._not_before = 0.0
        self._own_at = 0.0
        #: Foreign messages on event subjects, and events that the audit found missing.
        self.dropped: int = 0
        self.missed: int = 0
        #: Who else takes the users of an answer.
        self.takers: list[Callable[[User, Asked], None]] = []
        #: Who takes the own view of the door's user.
        self.on_own: Callable[[Me, Asked], None] = lambda me, asked: None
        link.listeners.append(self._on_link)

    # -- what watches ask for

    def acquire(self, watch: HubWatch, ids: Iterable[str]) -> None:
        self._link.check_begin()
        if self._task is None or self._task.done():
            self._link.start()
            self.audit.plan()
            self._task = spawn(self._run(), "the hub of watches", self._end_watches)
        self.watching[watch] = None
        for id in ids:
            slot = self.slots.get(id)
            if slot is None:
                slot = self.slots[id] = Slot(id, f"{self.events}.{encode(id)}")
            slot.add(watch)
            self._unused.pop(slot, None)
            self._dirty[slot] = None
        self.wake.set()

    def release(self, watch: HubWatch, ids: Iterable[str]) -> None:
        for id in ids:
            slot = self.slots.get(id)
            if slot is not None:
                slot.discard(watch)
                if not slot.watches:
                    slot.unused_since = clock()
                    self._unused[slot] = None
        self.wake.set()

    def forget(self, watch: HubWatch) -> None:
        """A watch has ended."""
        self.watching.pop(watch, None)

    def look_at(self, slot: Slot) -> None:
        if self.slots.get(slot.entry.id) is slot:
            self._dirty[slot] = None
            self.wake.set()

    def slot(self, id: str) -> Optional[Slot]:
        return self.slots.get(id)

    def take_answers(self, users: Iterable[User], asked: Asked) -> None:
        """Answers that came by another way: the user's own view, or a query."""
        for user in users:
            slot = self.slots.get(user.id)
            if slot is not None:
                if slot.fresh and not slot.asking and user.version > slot.entry.version:
                    self.audit.expect(slot, user.version)
                slot.spread(slot.entry.on_answer(user, asked))
            self.look_at_own(user, asked)
            for take in list(self.takers):
                take(user, asked)

    def look_at_own(self, user: User, asked: Asked) -> None:
        """A user in an answer may be the door's own, as it sees itself."""
        if user.id == self.own and isinstance(user, Me):
            self.on_own(user, asked)

    def resync(self) -> None:
        self._mark_stale()
        self._not_before = clock() + resync_pause(len(self.slots))
        self.wake.set()

    async def close(self) -> None:
        for watch in list(self.watching):
            watch._end(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._questions.close()
        subs = [slot.sub for slot in self.slots.values() if slot.sub is not None]
        self.slots.clear()
        self._dirty.clear()
        self._unused.clear()
        for sub in subs:
            await self._link.unsubscribe(sub)
        await asyncio.sleep(0)  # The tasks of the subscriptions end.

    # -- signals

    def _on_link(self, event: LinkEvent) -> None:
        if event is LinkEvent.UP:
            for slot in self.slots.values():
                slot.allow()
            self.resync()
        elif event is LinkEvent.DOWN:
            self._mark_stale()
        elif event is LinkEvent.DOUBT:
            self.resync()
        else:
            self._end_watches(Closed("the NATS connection is closed"))

    def _end_watches(self, error: PresenceError) -> None:
        for watch in list(self.watching):
            watch._end(error)
        self.wake.set()

    def _mark_stale(self) -> None:
        self.audit.expect_none()
        for slot in self.slots.values():
            slot.doubt()
        self._dirty = dict.fromkeys(self.slots.values())
        for watch in list(self.watching):
            watch._look()

    async def _on_message(self, message: Msg) -> None:
        id = decode(message.subject[len(self.events) + 1 :])
        slot = self.slots.get(id) if id is not None else None
        user = parse_event(message.data, id) if id is not None else None
        if slot is None or user is None:
            self.dropped += 1
        elif id == self.own:
            # Others see less than the user itself, whose own view is asked for.
            slot.entry.event_version = max(slot.entry.event_version, user.version)
            slot.doubt()
            self.look_at(slot)
        else:
            slot.spread(slot.entry.on_event(user))

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
                self._doubt_own()
                await self._subscribe()
                self._backoff.reset()
                self._trouble.over()
                self._ask()
                self.audit.run()
            except Closed:
                return
            except PresenceError as error:
                self.fail(error)

    async def _sleep(self) -> None:
        """Until something is to be done."""
        now = clock()
        times = [*self.audit.times(), *self._questions.times(now)]
        if self._not_before > now:
            times.append(self._not_before)
        if self._own_unheard is not None:
            times.append(max(self._own_at, now))
        if self._unused:
            times.append(now + _LINGER)
        await wait_set(self.wake, max(0.0, min(times) - clock()))
        self.wake.clear()

    @property
    def _own_unheard(self) -> Optional[Slot]:
        """The door's user, if it is watched and invisible."""
        slot = self.slots.get(self.own) if self.own is not None else None
        user = None if slot is None or slot.denied or not slot.fresh else slot.entry.user
        return slot if isinstance(user, Me) and user.invisible else None

    def _doubt_own(self) -> None:
        slot = self._own_unheard
        if slot is not None and clock() >= self._own_at:
            self._own_at = clock() + _OWN_AGAIN
            slot.doubt()
            self._dirty[slot] = None

    async def _let_go(self) -> None:
        for slot in list(self._unused):
            # One may be taken again while another is let go.
            if slot in self._unused and clock() - slot.unused_since >= _LINGER:
                del self._unused[slot], self.slots[slot.entry.id]
                self._dirty.pop(slot, None)
                if slot.sub is not None:
                    await self._link.unsubscribe(slot.sub)

    async def _subscribe(self) -> None:
        wanted = [
            slot for slot in self._dirty if not slot.denied and not self._link.holds(slot.sub)
        ]
        for slots in chunks(wanted, PER_QUERY):
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

    def _ask(self) -> None:
        wanted = [
            slot
            for slot in self._dirty
            if slot.sub is not None and slot.asking is None and not slot.fresh
        ]
        unheard = (s for s in self._dirty if not s.denied and not self._link.holds(s.sub))
        self._dirty = dict.fromkeys([*unheard, *self._questions.start(wanted)])

    def fail(self, error: PresenceError) -> None:
        """Something failed that concerns all watches: there is another try."""
        self._trouble.note(error)
        for watch in list(self.watching):
            watch._note(error)
        self._not_before = clock() + self._backoff.next_pause(error.retry_after)
        self.wake.set()

    async def get_users(self, ids: Sequence[str]) -> dict[str, User]:
        """Users as they are now, which the watches take, too."""
        general = question()
        asked = {slot: slot.entry.ask() for slot in map(self.slots.get, ids) if slot is not None}
        found = await self.ask_users(ids)
        self.take_answers(found.values(), general)
        for slot, when in asked.items():
            if slot.entry.id not in found:
                slot.spread(slot.entry.on_answer(None, when))
        return found

    async def ask_users(self, ids: Sequence[str]) -> dict[str, User]:
        """Users by ``query_users``; who are too many for one answer, by several."""
        body = {"filter": {"id": {"$in": list(ids)}}, "limit": PER_QUERY, "presence": True}
        try:
            answer = await self._calls.call("query_users", body)
        except Refused as error:
            if not is_too_large(error, len(ids)):
                raise
            half = len(ids) // 2
            return {**await self.ask_users(ids[:half]), **await self.ask_users(ids[half:])}
        return {user.id: user for user in parse_users(answer)}
