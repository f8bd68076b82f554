"""One NATS connection, as a door sees it: whether it is up, and what is under way over it.

nats-py has one callback of each kind, given at connect, so a borrowed connection is observed
through its public state four times a second, together with all others of its event loop.
``presenced.connect`` passes its callbacks to ``observe`` too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from enum import Enum
from typing import Callable, Optional

from ._background import Outage, retrieve
from ._loop import OfLoop
from ._nats import Client, Msg, Nats, OnMessage, Subscription
from ._pace import TRY_TIMEOUT, clock, wait_set
from ._probe import Probe
from ._subscriptions import Subscriptions
from ._ticks import ticks
from .errors import Closed, Denied, Disconnected, Invalid, NoAnswer, PresenceError, Refused, again

log = logging.getLogger("presenced")

# Messages are dropped in numbers: once in so long is told.
_DROPPED_AGAIN = 1.0
# What nats-py may take longer than it is told.
_SLACK = 0.05


class LinkEvent(Enum):
    """After each (re)connect, at each loss, when messages may be lost, and at the end."""

    UP = "up"
    DOWN = "down"
    DOUBT = "doubt"
    CLOSED = "closed"


class _Call:
    """A request under way. ``reason``: why the link gave it up."""

    def __init__(self, subject: str, generation: int) -> None:
        self.subject = subject.lower()
        self.generation = generation
        self.task: Optional[asyncio.Task[Msg]] = None
        self.reason: Optional[PresenceError] = None

    def give_up(self, reason: PresenceError) -> None:
        if self.task is not None and not self.task.done() and self.reason is None:
            self.reason = reason
            self.task.cancel()


class Link(OfLoop):
    """A NATS connection, which belongs to one event loop."""

    def __init__(self, nc: Client) -> None:
        if not isinstance(nc, Client):
            raise Invalid("nc", f"a NATS connection, not a {type(nc).__name__}")
        self.nats: Nats = Nats(nc)
        self.probe: Probe = Probe(self.nats)
        self._subscriptions = Subscriptions(self.nats, self._round_trip)
        self._calls: set[_Call] = set()
        self._started = False
        self._generation = -1
        self._was_up = False
        self._last_error: Optional[Exception] = None
        self._up: Optional[asyncio.Event] = None
        self._no_answers: Optional[Denied] = None  # The refusal of what answers come on.
        self._unheard_in = -1  # The number of reconnects that there were then.
        self.outage: Outage = Outage()
        self._dropped = False
        self._dropped_at = float("-inf")
        self.closed: bool = False
        self.ending: bool = False  # The door closes: what is under way ends, nothing begins.
        self.listeners: list[Callable[[LinkEvent], None]] = []

    @property
    def is_up(self) -> bool:
        return not self.closed and self.nats.is_connected

    def start(self) -> None:
        """Begins to observe the connection. Needs a running loop; a repeat does nothing."""
        if not self._started and not self.closed:
            self._started = True
            self._up = asyncio.Event()
            self._generation = self.nats.reconnects
            self._last_error = self.nats.last_error
            self._was_up = self.is_up
            if self._was_up:
                self._up.set()
            ticks().add(self)

    async def close(self) -> None:
        """Ends what the link runs; the NATS connection stays as it is."""
        self.closed = self.ending = True
        self._abandon(Closed("the presence client is closed"))
        self._stop()
        await self.probe.close()
        if self._up is not None:
            self._up.set()

    def _stop(self) -> None:
        if self._started:
            ticks().discard(self)

    def _home(self) -> Optional[asyncio.AbstractEventLoop]:
        return self.nats.loop

    # -- what is sent over it

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """One try of a request."""
        self._check_up(payload)
        if self._no_answers is not None and self._unheard_in == self.nats.reconnects:
            raise again(self._no_answers)
        call = _Call(subject, self.nats.reconnects)
        task = call.task = asyncio.ensure_future(self.nats.request(subject, payload, timeout))
        task.add_done_callback(retrieve)  # Who waits may be cancelled as it fails.
        self._calls.add(call)
        try:
            # The time-out of nats-py is one of the answer: sending may take as long as it likes.
            await asyncio.wait({task}, timeout=timeout + _SLACK)
        finally:
            self._calls.discard(call)
            if not task.done():
                task.cancel()
        if not task.done():
            raise NoAnswer(f"{subject} was not sent within {timeout} s")
        if task.cancelled():
            reason = call.reason or Disconnected("the NATS connection broke under a request")
            raise again(reason) from reason.__cause__
        return task.result()

    async def publish(self, subject: str, payload: bytes) -> None:
        self._check_up(payload)
        await self.nats.publish(subject, payload)

    async def subscribe(
        self, subjects: Sequence[str], on_message: OnMessage
    ) -> dict[str, Optional[Subscription]]:
        """Subscribes, and returns when the server has taken note; None where it refuses."""
        self._check_up()
        return await self._subscriptions.subscribe(subjects, on_message)

    async def unsubscribe(self, sub: Subscription) -> None:
        await self._subscriptions.unsubscribe(sub)

    def holds(self, sub: Optional[Subscription]) -> bool:
        """Whether a subscription was made, and nothing says that the server has dropped it."""
        return self._subscriptions.holds(sub)

    def doubt(self) -> None:
        """An answer is missing: has the connection probed."""
        self.probe.begin()

    async def wait_up(self, timeout: Optional[float] = None) -> bool:
        """Waits for the connection; raises Closed when it never will be there again."""
        self.check_open()
        self.start()
        assert self._up is not None
        deadline = None if timeout is None else clock() + timeout
        while not self.is_up:
            self.check_open()
            self._up.clear()  # The loss may not have been seen yet.
            self.observe()
            left = None if deadline is None else deadline - clock()
            if not await wait_set(self._up, left) and deadline is not None:
                return False
        return True

    def check_begin(self) -> None:
        """Raises Closed when nothing may begin any more."""
        if self.ending:
            raise Closed("the presence client is closed")
        self.check_open()

    def check_open(self) -> None:
        """Raises Closed when nothing will be sent or heard any more."""
        self.check_loop()
        if self.closed:
            raise Closed("the presence client is closed")
        if self.nats.is_closed:
            raise Closed("the NATS connection is closed")

    def _check_up(self, payload: bytes = b"") -> None:
        self.check_open()
        self.start()
        if not self.nats.is_connected:
            raise Disconnected("NATS is away")
        if len(payload) > self.nats.max_payload:
            raise Refused(
                f"{len(payload)} bytes are more than NATS takes",
                code="too_large",
                details={"limit": self.nats.max_payload},
            )

    async def _round_trip(self) -> None:
        if not await self.nats.pong_within(TRY_TIMEOUT):
            self.doubt()
            raise NoAnswer("the NATS server does not answer")
        self._look_at_error()

    # -- events of the connection

    def observe(self, error: Optional[Exception] = None) -> None:
        """Takes a signal of a callback of nats-py, instead of waiting for the next look."""
        dropped = self.nats.dropped(error)
        if dropped is not None:
            if self._subscriptions.is_own(dropped):  # Others are no concern.
                self._dropped = True
                self._tell_dropped()
        elif error is not None and error is not self._last_error:
            self._note_error(error)
        if self._started and self._loop is not None:
            self._loop.call_soon(self.tick, False)

    def tick(self, late: bool) -> None:
        """Looks at the connection."""
        if self.closed:
            return
        try:
            self._look()
            self.probe.listen(bool(self._subscriptions))
            self._tell_dropped()
            if late and self.is_up:
                self.doubt()
                self._tell(LinkEvent.DOUBT)
        except Exception as error:
            log.error("observing NATS failed in an unforeseen way", exc_info=error)
            self._end(Closed(f"observing NATS failed in an unforeseen way: {error!r}"))

    def _look(self) -> None:
        self._look_at_error()
        if self.nats.is_closed:
            self._end(Closed("the NATS connection is closed"))
            return
        self.nats.let_go()
        generation, is_up = self.nats.reconnects, self.nats.is_connected
        reconnected = generation != self._generation
        if self._was_up and (reconnected or not is_up):
            self._on_loss(generation, is_up)
        if is_up and (reconnected or not self._was_up):
            assert self._up is not None
            self._up.set()
            log.info("NATS is back")
            self._tell(LinkEvent.UP)
        self._generation, self._was_up = generation, is_up

    def _look_at_error(self) -> None:
        error = self.nats.last_error
        if error is not None and error is not self._last_error:
            self._note_error(error)

    def _note_error(self, error: Exception) -> None:
        self._last_error = error
        refusal = self.nats.refusal(error)
        if refusal is None:
            return
        if refusal.of_subscription:
            if self.nats.takes_answers(refusal.subject):
                self._deny_answers(refusal.subject)
            elif self._subscriptions.on_refusal(refusal.subject):
                self._tell(LinkEvent.DOUBT)
            return
        for call in list(self._calls):
            if call.subject == refusal.subject:
                call.give_up(
                    Denied(f"NATS refuses to publish on {call.subject}", subject=call.subject)
                )

    def _deny_answers(self, subject: str) -> None:
        """No request is answered until nats-py subscribes again, after the next reconnect."""
        self._unheard_in = self.nats.reconnects
        self._no_answers = Denied(f"NATS refuses the answers on {subject}", subject=subject)
        for call in list(self._calls):
            call.give_up(self._no_answers)

    def _on_loss(self, generation: int, is_up: bool) -> None:
        assert self._up is not None
        self._up.clear()
        log.warning("NATS is away: what is shown may be old until it is back")
        for call in list(self._calls):
            if not is_up or call.generation != generation:
                call.give_up(Disconnected("the NATS connection broke under a request"))
        self._tell(LinkEvent.DOWN)

    def _end(self, error: PresenceError) -> None:
        log.warning("nothing goes on: %s", error)
        self.closed = True
        self._stop()
        self._abandon(error)
        if self._up is not None:
            self._up.set()
        self._tell(LinkEvent.CLOSED)

    def _abandon(self, reason: PresenceError) -> None:
        for call in list(self._calls):
            call.give_up(reason)

    def _tell_dropped(self) -> None:
        if self._dropped and clock() - self._dropped_at >= _DROPPED_AGAIN:
            self._dropped, self._dropped_at = False, clock()
            log.warning("messages of NATS were dropped: all is asked for again")
            self._tell(LinkEvent.DOUBT)

    def _tell(self, event: LinkEvent) -> None:
        for listener in list(self.listeners):
            listener(event)
