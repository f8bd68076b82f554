"""The seam to nats-py: all that this package asks of a connection that is the application's.

nats-py has one callback of each kind, given at connect, so a borrowed connection is observed
through its public state four times a second. ``presenced.connect`` passes its callbacks to
``observe`` too.

Invariant: nobody cancels the future of a PING, as ``flush`` of nats-py does with those it gives up:
the PONG of such a one would end nats-py's read loop. Hence its ``_send_ping``, which ``flush`` is
made of.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from enum import Enum
from typing import Any, Callable, Optional

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ._background import spawn
from ._pace import TRY_TIMEOUT, clock, wait_set
from .errors import Closed, Denied, Disconnected, NoAnswer, NoDaemon, PresenceError, Refused, again

_POLL = 0.25
# A tick so late means that the machine slept or the loop was blocked.
_LATE = 5.0
# Messages are dropped in numbers: once in so long is told.
_DROPPED_AGAIN = 1.0
# What nats-py may take longer than it is told.
_SLACK = 0.05
# A connection with subscriptions over which nothing came for so long is probed.
_SILENCE = 18.0
_REFUSAL = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)

OnMessage = Callable[[Msg], Awaitable[None]]


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


class Link:
    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._calls: set[_Call] = set()
        self._monitor: Optional[asyncio.Task[None]] = None
        self._probe: Optional[asyncio.Task[bool]] = None
        self._generation = -1
        self._was_up = False
        self._last_error: Optional[Exception] = None
        # Subjects of subscriptions that are being made, and refusals, in the lower case of nats-py.
        self._making: set[str] = set()
        self._refusals: set[str] = set()
        self._subscribing: Optional[asyncio.Lock] = None
        self._wake: Optional[asyncio.Event] = None
        self._up: Optional[asyncio.Event] = None
        self._forced = 0
        self._subs: set[Subscription] = set()
        self._suspects: set[Subscription] = (
            set()
        )  # Which of them the server refuses now is unknown.
        self._dropped = False
        self._dropped_at = float("-inf")
        self._received = -1
        self._heard_at = 0.0
        self.closed: bool = False
        self.ending: bool = False  # The door closes: what is under way ends, nothing begins.
        self.listeners: list[Callable[[LinkEvent], None]] = []

    @property
    def is_up(self) -> bool:
        return not self.closed and self._nc.is_connected

    @property
    def max_payload(self) -> int:
        return int(self._nc.max_payload)

    def start(self) -> None:
        """Begins to observe the connection. Needs a running loop; a repeat does nothing."""
        if self._monitor is None and not self.closed:
            self._wake, self._up = asyncio.Event(), asyncio.Event()
            self._subscribing = asyncio.Lock()
            self._generation = self._reconnects()
            self._last_error = self._nc.last_error
            self._was_up = self.is_up
            if self._was_up:
                self._up.set()
            self._monitor = spawn(self._observe(), "observing NATS", self._end)

    async def close(self) -> None:
        """Ends what the link runs; the NATS connection stays as it is."""
        self.closed = self.ending = True
        self._abandon(Closed("the presence client is closed"))
        tasks: list[asyncio.Task[Any]] = [t for t in (self._monitor, self._probe) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._up is not None:
            self._up.set()

    def observe(self, error: Optional[Exception] = None) -> None:
        """Takes a signal of a callback of nats-py, instead of waiting for the next look."""
        if isinstance(error, nats_errors.SlowConsumerError):
            self._on_dropped(error.sub)
        elif error is not None and error is not self._last_error:
            self._note_error(error)
        if self._wake is not None:
            self._wake.set()

    def _on_dropped(self, sub: Subscription) -> None:
        """A message was dropped: the application's own subscriptions are no concern."""
        if sub in self._subs or sub in self._suspects:
            self._dropped = True
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        if self._dropped and clock() - self._dropped_at >= _DROPPED_AGAIN:
            self._dropped, self._dropped_at = False, clock()
            self._tell(LinkEvent.DOUBT)

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

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """One try of a request."""
        self._check_up(payload)
        call = _Call(subject, self._reconnects())
        task = call.task = asyncio.ensure_future(
            self._nc.request(subject, payload, timeout=timeout)
        )
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
            raise again(reason) from call.reason
        try:
            return task.result()
        except nats_errors.NoRespondersError:
            raise NoDaemon(f"NATS answers, but no daemon serves {subject}") from None
        except (nats_errors.TimeoutError, asyncio.TimeoutError):
            raise NoAnswer(f"no answer on {subject} within {timeout} s") from None
        except (nats_errors.ConnectionClosedError, nats_errors.ConnectionDrainingError):
            raise Closed("the NATS connection is closed") from None
        except (nats_errors.Error, OSError) as error:
            raise Disconnected(f"the request could not be sent: {error!r}") from error

    async def publish(self, subject: str, payload: bytes) -> None:
        self._check_up(payload)
        try:
            await self._nc.publish(subject, payload)
        except (nats_errors.Error, OSError) as error:
            raise Disconnected(f"not published: {error!r}") from error

    async def subscribe(
        self, subjects: Sequence[str], on_message: OnMessage
    ) -> dict[str, Optional[Subscription]]:
        """Subscribes, and returns when the server has taken note; None where it refuses."""
        self._check_up()
        assert self._subscribing is not None
        made: dict[str, Subscription] = {}
        try:
            async with self._subscribing:
                for sub in list(self._suspects):
                    await self.unsubscribe(sub)
                refused = await self._subscribe(subjects, made, on_message)
                if refused:
                    # A borrowed connection tells only the last refusal: look at each alone.
                    for subject in [subject for subject in subjects if subject in made]:
                        await self.unsubscribe(made.pop(subject))
                        await self._subscribe([subject], made, on_message)
        except BaseException as error:
            for sub in made.values():
                await self.unsubscribe(sub)
            if isinstance(error, nats_errors.ConnectionClosedError):
                raise Closed("the NATS connection is closed") from None
            if isinstance(error, (nats_errors.Error, OSError)):
                raise Disconnected(f"not subscribed: {error!r}") from error
            raise
        return {subject: made.get(subject) for subject in subjects}

    async def _subscribe(
        self, subjects: Sequence[str], made: dict[str, Subscription], on_message: OnMessage
    ) -> bool:
        """Subscribes to some subjects; True if any was refused, which is then not in ``made``."""
        self._refusals.clear()
        self._making = {subject.lower() for subject in subjects}
        try:
            for subject in subjects:
                made[subject] = await self._nc.subscribe(subject, cb=on_message)
                self._subs.add(made[subject])
            await self._round_trip()
        finally:
            self._making = set()
        refused = [subject for subject in subjects if subject.lower() in self._refusals]
        for subject in refused:
            await self.unsubscribe(made.pop(subject))
        return bool(refused)

    def holds(self, sub: Optional[Subscription]) -> bool:
        """Whether a subscription was made, and nothing says that the server has dropped it."""
        return sub in self._subs

    async def unsubscribe(self, sub: Subscription) -> None:
        self._subs.discard(sub)
        self._suspects.discard(sub)
        try:
            await sub.unsubscribe()
        except (nats_errors.Error, OSError):
            pass  # It has ended with the connection.

    def doubt(self) -> None:
        """Has the connection probed in the background: an answer is missing."""
        if self.is_up and (self._probe is None or self._probe.done()):
            self._probe = asyncio.ensure_future(self.probe())

    async def probe(self) -> bool:
        """Whether the server answers; a silent connection is made to reconnect."""
        generation = self._reconnects()
        for _ in range(2):
            if not self.is_up:
                return False
            if await self._pong_within(TRY_TIMEOUT):
                return True
        if self.is_up and self._reconnects() == generation:
            await self._force()
        return False

    async def _force(self) -> None:
        """Has nats-py reconnect, where it can be told to."""
        force: Optional[Callable[[], Awaitable[None]]]
        force = getattr(self._nc, "force_reconnect", None)  # since nats-py 2.15
        if force is not None:
            self._forced += 1
            await force()
            self.observe()

    def check_begin(self) -> None:
        """Raises Closed when nothing may begin any more."""
        if self.ending:
            raise Closed("the presence client is closed")
        self.check_open()

    def check_open(self) -> None:
        """Raises Closed when nothing will be sent or heard any more."""
        if self.closed:
            raise Closed("the presence client is closed")
        if self._nc.is_closed:
            raise Closed("the NATS connection is closed")

    def _check_up(self, payload: bytes = b"") -> None:
        self.check_open()
        self.start()
        if not self._nc.is_connected:
            raise Disconnected("NATS is away")
        if len(payload) > self.max_payload:
            raise Refused(
                f"{len(payload)} bytes are more than NATS takes",
                code="too_large",
                details={"limit": self.max_payload},
            )

    async def _round_trip(self) -> None:
        if not await self._pong_within(TRY_TIMEOUT):
            self.doubt()
            raise NoAnswer("the NATS server does not answer")
        error = self._nc.last_error
        if error is not None and error is not self._last_error:
            self._note_error(error)

    async def _pong_within(self, timeout: float) -> bool:
        """Whether the PONG of a PING sent now comes in time."""
        deadline = clock() + timeout
        # nats-py writes a PING at once, past what its flusher has not written yet.
        while self._nc.pending_data_size > 0 and clock() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            await self._nc._send_ping(pong)
        except (nats_errors.Error, OSError):
            return False
        await asyncio.wait({pong}, timeout=max(0.0, deadline - clock()))
        return pong.done()

    def _reconnects(self) -> int:
        return int(self._nc.stats["reconnects"])

    def _abandon(self, reason: PresenceError) -> None:
        for call in list(self._calls):
            call.give_up(reason)

    async def _observe(self) -> None:
        assert self._wake is not None
        seen_at = clock()
        while not self.closed:
            await wait_set(self._wake, _POLL)
            self._wake.clear()
            late = clock() - seen_at > _POLL + _LATE
            seen_at = clock()
            self._look()
            self._listen()
            self._tell_dropped()
            if late and self.is_up:
                self.doubt()
                self._tell(LinkEvent.DOUBT)

    def _look(self) -> None:
        error = self._nc.last_error
        if error is not None and error is not self._last_error:
            self._note_error(error)
        if self._nc.is_closed:
            self._end(Closed("the NATS connection is closed"))
            return
        generation, is_up = self._reconnects(), self._nc.is_connected
        reconnected = generation != self._generation
        if self._was_up and (reconnected or not is_up):
            self._on_loss(generation, is_up)
        if is_up and (reconnected or not self._was_up):
            assert self._up is not None
            self._up.set()
            self._tell(LinkEvent.UP)
        self._generation, self._was_up = generation, is_up

    def _listen(self) -> None:
        """Doubts a silent connection: who only watches sends nothing that would miss its answer."""
        received = int(self._nc.stats["in_msgs"])
        if received != self._received:
            self._received, self._heard_at = received, clock()
        elif self._subs and clock() - self._heard_at >= _SILENCE:
            self._heard_at = clock()
            self.doubt()

    def _end(self, error: PresenceError) -> None:
        self.closed = True
        self._abandon(error)
        if self._up is not None:
            self._up.set()
        self._tell(LinkEvent.CLOSED)

    def _on_loss(self, generation: int, is_up: bool) -> None:
        assert self._up is not None
        self._up.clear()
        for call in list(self._calls):
            if not is_up or call.generation != generation:
                call.give_up(Disconnected("the NATS connection broke under a request"))
        self._tell(LinkEvent.DOWN)

    def _note_error(self, error: Exception) -> None:
        self._last_error = error
        found = _REFUSAL.search(str(error))
        if not found:
            return
        kind, subject = found.group(1).lower(), found.group(2).lower()
        if kind == "subscription":
            if subject in self._making:
                self._refusals.add(subject)
            elif any(sub.subject.lower() == subject for sub in self._subs):
                # A permission was withdrawn. Others may be, as only the last refusal is told.
                self._suspects |= self._subs
                self._subs = set()
                self._tell(LinkEvent.DOUBT)
        else:
            for call in list(self._calls):
                if call.subject == subject:
                    call.give_up(
                        Denied(f"NATS refuses to publish on {call.subject}", subject=call.subject)
                    )

    def _tell(self, event: LinkEvent) -> None:
        for listener in list(self.listeners):
            listener(event)


async def close_nats(nc: Client) -> None:
    """Closes a NATS connection, also one whose link breaks meanwhile."""
    try:
        await nc.close()
    except OSError:
        # nats-py leaves undone what comes after its last write.
        for sub in list(nc._subs.values()):
            if sub._wait_for_msgs_task is not None:
                sub._wait_for_msgs_task.cancel()
