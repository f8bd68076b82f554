"""A lease with seats: many connections, joined into batches, kept alive by one heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Callable, Optional

from ._background import spawn
from ._calls import Calls
from ._desired import Desired
from ._knowledge import KnownUsers
from ._link import Link, LinkEvent
from ._model import ConnectionState, parse_me
from ._opening import Opened, Opening
from ._pace import (
    CALL_TIMEOUT,
    LAST_DISCONNECT,
    LAST_TRY,
    Backoff,
    Pace,
    Silence,
    clock,
    pause_after,
    wait_set,
)
from ._patch import seconds_of, user_patch
from ._seat_queue import SeatQueue
from ._states import HasState, States
from ._tokens import MAX_BYTES, id_of, random_id
from .errors import Closed, Malformed, PresenceError, from_answer, of_one_user
from .seat import Seat

_GATHER = 0.005
_PER_BATCH = 200
_BATCHES = 4


class Lease(HasState, Opened):
    """Many users being online by one heartbeat: made by ``lease`` of a service.

    ``async with`` and ``await`` begin it; leaving the block disconnects all.
    """

    def __init__(
        self,
        link: Link,
        calls: Calls,
        users: KnownUsers,
        name: str,
        on_open: Callable[[Lease], None],
        on_end: Callable[[Lease], None],
    ) -> None:
        id_of(name, "name", MAX_BYTES - len(f"-{random_id()}"))  # It gets a random end.
        self._link = link
        self._calls = calls
        self._users = users
        self._base = name
        self._on_open = on_open
        self._on_end = on_end
        self._states = States(f"the lease {name!r}", link.outage)
        self._pace = Pace()
        self._backoff = Backoff()
        self._silence = Silence(calls.answers)
        self._seats = SeatQueue(calls.turns)
        self._batches: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._old: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._mismatches = 0
        self._writes = 0
        self.name: str = f"{name}-{random_id()}"

    def __repr__(self) -> str:
        return f"<Lease {self.name!r}, {self.state}, {self.held} of {len(self._seats)} seats>"

    @property
    def held(self) -> int:
        """The number of seats that the daemons have acknowledged."""
        return sum(1 for seat in self._seats if seat._connected)

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple(self._seats)

    def connect(
        self,
        user: str,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        device: Optional[str] = None,
        idle: Optional[bool] = None,
        defaults: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = CALL_TIMEOUT,
        **named: Any,
    ) -> Opening[Seat]:
        """A seat for a user: ``await`` and ``async with`` wait until it is acknowledged.

        ``defaults`` are fields that count only if this makes the user.
        """
        id_of(user, "user")
        seconds_of(timeout)
        desired = Desired(user_patch(fields, named), device, idle, defaults, self._users.of(user))
        return Opening(Seat(self, user, desired, timeout)._open())

    async def close(
        self, *, restart: bool = False, timeout: Optional[float] = LAST_DISCONNECT
    ) -> None:
        """Ends all seats by one request, for which it tries until the timeout; else they lapse.

        ``restart``: the users have a whole lease to come back.
        """
        self.check_loop()
        seconds_of(timeout)
        if self.state is ConnectionState.CLOSED:
            return
        ends_at = None if timeout is None else clock() + timeout
        try:
            await asyncio.gather(*_cancelled([*self._tasks, *self._ending]), return_exceptions=True)
            if self._batches:
                # The daemons do not remember the end of a lease for a connect that comes later.
                await asyncio.wait(set(self._batches), timeout=timeout)
            await asyncio.gather(*_cancelled(self._batches), return_exceptions=True)
            body: dict[str, Any] = {"lease": self.name}
            if restart:
                body["grace_ms"] = int(self._pace.lease * 1000)
            if self._link.is_up and self._seats:
                await self._say_goodbye(body, ends_at)
        except PresenceError:
            pass  # The lease lapses.
        except asyncio.CancelledError:
            await self._calls.leave({"lease": self.name})
            raise
        finally:
            self._finish()

    async def _say_goodbye(self, body: Mapping[str, Any], ends_at: Optional[float]) -> None:
        left = None if ends_at is None else ends_at - clock()
        if left is None or left > 0:
            await self._calls.call("disconnect", body, left, each=LAST_TRY)
        else:  # The batches took all the time: the daemons hear it after them.
            await self._calls.publish("disconnect", body)

    async def _open(self) -> Lease:
        self._link.check_begin()
        self.check_loop()
        self._link.start()
        self._link.listeners.append(self._on_link)
        self._calls.turns.on_free.append(self._on_free)
        self._on_open(self)
        self._tasks = [
            spawn(task, f"the lease {self.name}", self._finish)
            for task in (self._write(), self._beat())
        ]
        if self._link.is_up:
            self._states.set(ConnectionState.ONLINE)
        return self

    # -- what seats ask for

    def _take(self, seat: Seat) -> None:
        """Takes a new seat."""
        if self.state is ConnectionState.CLOSED:
            raise Closed("the lease is closed")
        self._seats.add(seat)

    def _look_at(self, seat: Seat) -> None:
        """The seat may want something."""
        self._seats.look_at(seat)
        self._wake.set()

    def _has(self, seat: Seat) -> bool:
        return seat in self._seats

    # -- signals

    def _on_free(self, user: str) -> None:
        """The request of a user has ended, for which a seat may have waited."""
        if self._seats.waits(user):
            self._wake.set()

    def _on_link(self, event: LinkEvent) -> None:
        if event is LinkEvent.DOWN:
            self._interrupt(None)
        elif event is LinkEvent.CLOSED:
            self._finish(Closed("the NATS connection is closed"))
        else:
            if event is LinkEvent.UP and not self._seats:
                self._states.set(ConnectionState.ONLINE)
            self._beat_now.set()
            self._wake.set()

    def _interrupt(self, error: Optional[PresenceError]) -> None:
        for each in (self, *self._seats):
            if each.state is ConnectionState.ONLINE:
                each._states.set(ConnectionState.INTERRUPTED, error)

    # -- writes

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER)
            self._wake.clear()
            await self._link.wait_up()
            while len(self._batches) < _BATCHES:
                seats = self._next_batch()
                if not seats:
                    break
                fail = partial(self._fail_seats, seats)
                task = spawn(self._send(seats), f"a batch of {self.name}", fail)
                self._batches.add(task)
                task.add_done_callback(partial(self._on_batch_done, seats))
            if not self._batches and self._old and not self._seats.wants:
                for name in self._old:
                    end = spawn(self._end_old(name), f"the end of {name}", self._finish)
                    self._ending.add(end)
                    end.add_done_callback(self._ending.discard)
                self._old.clear()

    def _on_batch_done(self, seats: list[Seat], task: asyncio.Task[None]) -> None:
        self._seats.done(seats)
        self._batches.discard(task)
        self._wake.set()

    def _next_batch(self) -> list[Seat]:
        now = clock()
        seats, wake_at = self._seats.next_batch(_PER_BATCH, now)
        if wake_at is not None:
            asyncio.get_running_loop().call_later(wake_at - now, self._wake.set)
        return seats

    async def _send(self, seats: list[Seat]) -> None:
        name = self.name
        self._writes += 1
        operations = [seat._operation(name) for seat in seats]
        try:
            await self._send_parts(name, seats, operations)
        finally:
            self._writes += 1

    async def _send_parts(
        self, name: str, seats: list[Seat], operations: list[dict[str, Any]]
    ) -> None:
        """Sends a batch; one that is too large goes in two."""
        # Only the answer to a connect tells whether the user is hidden already: it costs no request
        # of its own, and nothing in between, as the views make the answers of batches large.
        connects = any(operation["op"] == "connect" for operation in operations)
        body = {"ops": operations, "me": connects}
        half = len(seats) // 2
        try:
            request = self._calls.once("batch", body)
            answer = await self._calls.turns.run(self._seats.turns_of(seats), request)
            results = answer.get("results")
            if not isinstance(results, list) or len(results) != len(seats):
                raise Malformed("a batch without its results")
        except PresenceError as error:
            if error.code == "too_large" and half:
                await self._send_parts(name, seats[:half], operations[:half])
                await self._send_parts(name, seats[half:], operations[half:])
            else:
                for seat, operation in zip(seats, operations):
                    self._on_error(seat, operation["op"], error)
                again_at = max(seat._not_before for seat in seats)
                for seat in seats:  # What failed together is sent again together.
                    seat._not_before = again_at
            return
        for seat, operation, result in zip(seats, operations, results):
            self._on_result(name, seat, operation["op"], result)

    def _on_result(self, name: str, seat: Seat, operation: str, result: Any) -> None:
        if not isinstance(result, dict):
            self._on_error(seat, operation, Malformed("a result that is no object"))
        elif "error" in result:
            self._on_error(seat, operation, of_one_user(from_answer(result["error"])))
        elif operation == "disconnect":
            self._remove(seat, None)
        elif operation == "update_connection" and result.get("unknown"):
            seat._desired.on_failure()
            seat._on_lost(relapsed=True)
        else:
            try:
                me = parse_me(result["me"]) if isinstance(result.get("me"), dict) else None
            except Malformed as error:
                self._on_error(seat, operation, error)
                return
            if operation == "connect":
                if not any(other._connected for other in self._seats):
                    self._beat_now.set()  # The answer says how often.
                self._pace.take(result)
                if name == self.name:
                    seat._on_connected(created=result.get("created") is True)
            seat._on_answer(me)

    def _on_error(self, seat: Seat, operation: str, error: PresenceError) -> None:
        seat._states.set(seat.state, error)
        seat._may_be_there |= error.may_have_applied
        if error.retryable or isinstance(error, Malformed):
            seat._desired.on_failure()
            seat._not_before = clock() + pause_after(error, seat._backoff, self._pace.interval)
        elif operation == "disconnect":
            self._remove(seat, error)
        elif not (seat._desired.drop_default(error) or seat._desired.split()):
            goes_on = seat._desired.on_refusal(error)
            if seat._connected or goes_on:
                return
            if seat._may_be_there:
                seat._give_up(error)
            else:
                self._remove(seat, error)

    def _fail_seats(self, seats: list[Seat], error: PresenceError) -> None:
        """A batch failed in an unforeseen way: its seats end, and what they hold is given up."""
        for seat in seats:
            if seat._closing or not self._has(seat):
                self._remove(seat, error)
            else:
                seat._give_up(error)

    def _remove(self, seat: Seat, error: Optional[PresenceError]) -> None:
        self._seats.remove(seat)
        seat._end(error)
        if not self._seats and self.state is ConnectionState.INTERRUPTED:
            self._beat_now.set()  # There is nothing to be heard of any more.

    # -- the heartbeat

    async def _beat(self) -> None:
        while True:
            await wait_set(self._beat_now, self._pace.next_interval())
            self._beat_now.clear()
            await self._link.wait_up()
            if not self._seats:
                self._states.set(ConnectionState.ONLINE)
                continue
            self._link.doubt()
            quiet, writes, name = not self._batches, self._writes, self.name
            try:
                answer = await self._calls.once("heartbeat", {"lease": name})
            except PresenceError as error:
                if isinstance(error, Closed) or not (error.retryable or error.may_have_applied):
                    raise
                if self._silence.on_error(error):
                    self._interrupt(error)
                self._states.set(self.state, error)
                await asyncio.sleep(pause_after(error, self._backoff, self._pace.interval))
                self._beat_now.set()
                continue
            self._backoff.reset()
            self._silence.on_answer()
            self._pace.take(answer)
            if name == self.name:
                self._on_beat(answer, quiet and not self._batches and writes == self._writes)

    def _on_beat(self, answer: Mapping[str, Any], quiet: bool) -> None:
        own, held = self.held, answer.get("held")
        if answer.get("unknown"):
            if own:
                self._move(relapsed=True)
            else:
                self._states.set(ConnectionState.ONLINE)
            return
        if self.state is not ConnectionState.ONLINE:
            for seat in self._seats:
                seat._on_held()
        self._states.set(ConnectionState.ONLINE)
        if not isinstance(held, int):
            return
        # A seat that is not settled may be held or not: its last request has no answer.
        least = sum(1 for seat in self._seats if seat._connected and not seat._closing)
        if least <= held <= len(self._seats):
            self._mismatches = 0
            return
        if not quiet:
            return
        self._mismatches += 1
        if self._mismatches < 2:
            self._beat_now.set()
            return
        self._mismatches = 0
        if held < own:
            self._disconnect_seats(lost=True)
        else:
            self._old.add(self.name)
            self._move(relapsed=False)

    def _move(self, *, relapsed: bool) -> None:
        """Takes a new name, and has all seats connect to it."""
        self.name = f"{self._base}-{random_id()}"
        self._mismatches = 0
        self._disconnect_seats(lost=relapsed, relapsed=relapsed)
        self._states.set(ConnectionState.ONLINE, relapsed=relapsed)

    def _disconnect_seats(self, *, lost: bool, relapsed: bool = False) -> None:
        """Has all seats connect again; they count as online where the old lease holds them."""
        for seat in self._seats:
            seat._connected = False
            if lost:
                seat._on_lost(relapsed=relapsed)
        self._seats.look_at_all()
        self._wake.set()

    async def _end_old(self, name: str) -> None:
        """Ends an old lease beside the writes, which do not wait for it."""
        with contextlib.suppress(PresenceError):  # What is refused, or closed, lapses.
            await self._calls.call("disconnect", {"lease": name}, None)

    # -- the end

    def _finish(self, error: Optional[PresenceError] = None) -> None:
        _cancelled([*self._tasks, *self._batches, *self._ending])
        for seat in list(self._seats):
            self._remove(seat, error)
        if self._on_link in self._link.listeners:
            self._link.listeners.remove(self._on_link)
            self._calls.turns.on_free.remove(self._on_free)
        self._states.set(ConnectionState.CLOSED, error)
        self._on_end(self)


def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    return cancelled
