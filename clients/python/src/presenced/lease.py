"""A lease with seats: many connections, joined into batches, kept alive by one heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from types import TracebackType
from typing import Any, Optional

from ._calls import Calls, dumps, pause_after
from ._desired import Desired
from ._link import Link
from ._model import ConnectionState, Status
from ._pace import CALL_TIMEOUT, Backoff, Pace, clock, wait_set
from ._patch import patch_of
from ._states import States
from ._tokens import encode, random_id
from .errors import Closed, Malformed, NoAnswer, PresenceError, Refused, from_answer

_GATHER = 0.005
_PER_BATCH = 200
_BATCHES = 4
_GOODBYE_TIMEOUT = 30.0


class Seat:
    """One connection of one user on a lease."""

    def __init__(self, lease: Lease, user: str, desired: Desired) -> None:
        self._lease = lease
        self.desired = desired
        self.user_id = user
        self.id = random_id()
        self.connected = False
        self.closing = False
        self.not_before = 0.0
        self.backoff = Backoff()
        self.error: Optional[PresenceError] = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def wants(self) -> bool:
        return self.closing or not self.connected or self.desired.dirty

    async def update(
        self,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = CALL_TIMEOUT,
        **named: Any,
    ) -> None:
        """Changes the user; returns when that is acknowledged."""
        self.desired.want(patch_of(fields, named))
        await self._settle(timeout)

    async def set_idle(self, idle: bool, *, timeout: Optional[float] = CALL_TIMEOUT) -> None:
        self.desired.mark(idle=idle)
        await self._settle(timeout)

    async def set_device(self, device: str, *, timeout: Optional[float] = CALL_TIMEOUT) -> None:
        self.desired.mark(device=device)
        await self._settle(timeout)

    async def close(self, *, timeout: Optional[float] = CALL_TIMEOUT) -> None:
        """Disconnects; what is not acknowledged in time goes on in the background."""
        if self.ended.done():
            return
        self.closing = True
        self._lease.wake()
        await asyncio.wait({self.ended}, timeout=timeout)

    async def __aenter__(self) -> Seat:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    async def _settle(self, timeout: Optional[float]) -> None:
        if self.closing or self.ended.done():
            raise self.error or Closed("the seat is closed")
        self._lease.wake()
        try:
            await self.desired.acknowledged(timeout)
        except asyncio.TimeoutError:
            raise self.error or NoAnswer("the change is not acknowledged yet") from None

    def end(self, error: Optional[PresenceError]) -> None:
        self.connected = False
        self.error = error or self.error
        self.desired.end(error or Closed("the seat is closed"))
        if not self.ended.done():
            self.ended.set_result(None)


class Lease:
    """Made by ``Service.lease``; ``async with`` and ``await`` begin it."""

    def __init__(self, link: Link, calls: Calls, name: str) -> None:
        encode(f"{name}-{'0' * 32}")
        self._link = link
        self._calls = calls
        self._base = name
        self._states = States()
        self._pace = Pace()
        self._backoff = Backoff()
        self._seats: dict[str, Seat] = {}
        self._busy: set[str] = set()
        self._batches: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._old: set[str] = set()
        self._mismatches = 0
        self._writes = 0
        self._plain = False  # The daemon does not know "me":false.
        self.name = f"{name}-{random_id()}"

    @property
    def status(self) -> Status:
        return self._states.current

    @property
    def state(self) -> ConnectionState:
        return self._states.current.state

    @property
    def held(self) -> int:
        """How many seats the daemons have acknowledged."""
        return sum(1 for seat in self._seats.values() if seat.connected)

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple(self._seats.values())

    def states(self) -> AsyncIterator[Status]:
        return self._states.follow()

    async def connect(
        self,
        user: str,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        device: Optional[str] = None,
        idle: Optional[bool] = None,
        timeout: Optional[float] = CALL_TIMEOUT,
        **named: Any,
    ) -> Seat:
        """Takes a seat for a user; returns when the daemon has acknowledged it."""
        if not self._tasks or self.state is ConnectionState.CLOSED:
            raise Closed("the lease is not open")
        encode(user)
        seat = Seat(self, user, Desired(patch_of(fields, named), device, idle))
        self._seats[seat.id] = seat
        try:
            await seat._settle(timeout)
        except BaseException:
            seat.closing = True  # It may have been applied: it is disconnected afterwards.
            self.wake()
            raise
        return seat

    async def close(self, *, restart: bool = False) -> None:
        """Ends all seats by one request. ``restart``: the users have a whole lease to come back."""
        await self._stop()
        if self.state is ConnectionState.CLOSED:
            return
        body: dict[str, Any] = {"lease": self.name}
        if restart:
            body["grace_ms"] = int(self._pace.lease * 1000)
        try:
            if self._link.is_up and self._seats:
                await self._calls.call("disconnect", body, _GOODBYE_TIMEOUT)
        except PresenceError:
            pass  # The lease lapses.
        finally:
            self._finish(None)

    async def open(self) -> Lease:
        if not self._tasks:
            self._link.start()
            for listeners, listener in self._listeners():
                listeners.append(listener)
            self._tasks = [
                asyncio.ensure_future(self._write()),
                asyncio.ensure_future(self._beat()),
            ]
            if self._link.is_up:
                self._states.set(ConnectionState.ONLINE)
        return self

    def __await__(self) -> Generator[Any, None, Lease]:
        return self.open().__await__()

    async def __aenter__(self) -> Lease:
        return await self.open()

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    def wake(self) -> None:
        self._wake.set()

    # -- signals of the link

    def _listeners(self) -> list[tuple[list[Any], Any]]:
        return [
            (self._link.on_up, self._on_up),
            (self._link.on_down, self._on_down),
            (self._link.on_doubt, self._beat_now.set),
            (self._link.on_closed, self._on_closed),
        ]

    def _on_up(self) -> None:
        self._states.set(ConnectionState.ONLINE)
        self._beat_now.set()
        self.wake()

    def _on_down(self) -> None:
        self._states.set(ConnectionState.INTERRUPTED)

    def _on_closed(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._finish(Closed("the NATS connection is closed"))

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
                task = asyncio.ensure_future(self._send(seats))
                self._batches.add(task)
                task.add_done_callback(self._on_batch_done)
            if not self._batches and self._old and not any(s.wants for s in self._seats.values()):
                await self._end_old()

    def _on_batch_done(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self.wake()

    def _next_batch(self) -> list[Seat]:
        """Seats that want something, one for each user, none whose user has a request under way."""
        chosen: list[Seat] = []
        wake_at: Optional[float] = None
        now = clock()
        for seat in self._seats.values():
            if not seat.wants or seat.user_id in self._busy:
                continue
            if seat.not_before > now:
                wake_at = min(wake_at or seat.not_before, seat.not_before)
                continue
            self._busy.add(seat.user_id)
            chosen.append(seat)
            if len(chosen) == _PER_BATCH:
                break
        if not chosen and wake_at is not None:
            asyncio.get_running_loop().call_later(wake_at - now, self.wake)
        return chosen

    def _operation(self, seat: Seat) -> dict[str, Any]:
        where = {"user_id": seat.user_id, "connection_id": seat.id}
        if seat.closing:
            return {"op": "disconnect", **where}
        if not seat.connected:
            body = seat.desired.connect_body(seat.user_id)
            return {"op": "connect", **body, "connection_id": seat.id, "lease": self.name}
        if seat.desired.patch:
            user = {**seat.desired.upsert_body(), "id": seat.user_id}
            return {"op": "upsert_users", "users": [user]}
        return {"op": "update_connection", **where, **seat.desired.marks_body()}

    async def _send(self, seats: list[Seat]) -> None:
        name = self.name
        self._writes += 1
        operations = [self._operation(seat) for seat in seats]
        try:
            await self._send_parts(name, seats, operations)
        finally:
            self._writes += 1
            self._busy.difference_update(seat.user_id for seat in seats)

    async def _send_parts(
        self, name: str, seats: list[Seat], operations: list[dict[str, Any]]
    ) -> None:
        """Sends a batch; one that is too large goes in two."""
        body: dict[str, Any] = {"ops": operations}
        if not self._plain:
            body["me"] = False
        half = len(seats) // 2
        try:
            if half and len(dumps(body)) > self._link.max_payload:
                raise Refused("the batch is too large", code="too_large")
            answer = await self._calls.once("batch", body)
            results = answer.get("results")
            if not isinstance(results, list) or len(results) != len(seats):
                raise Malformed("a batch without its results")
        except PresenceError as error:
            if "me" in body and isinstance(error, Refused) and error.code == "invalid_request":
                self._plain = True
                await self._send_parts(name, seats, operations)
            elif error.code == "too_large" and half:
                await self._send_parts(name, seats[:half], operations[:half])
                await self._send_parts(name, seats[half:], operations[half:])
            else:
                for seat, operation in zip(seats, operations):
                    self._on_error(seat, operation["op"], error)
            return
        for seat, operation, result in zip(seats, operations, results):
            self._on_result(name, seat, operation["op"], result)

    def _on_result(self, name: str, seat: Seat, operation: str, result: Any) -> None:
        if not isinstance(result, dict):
            self._on_error(seat, operation, Malformed("a result that is no object"))
        elif "error" in result:
            self._on_error(seat, operation, from_answer(result["error"]))
        elif operation == "disconnect":
            self._remove(seat, None)
        elif operation == "update_connection" and result.get("unknown"):
            seat.desired.on_failure()
            seat.connected = False
        else:
            if operation == "connect":
                if not self.held:
                    self._beat_now.set()  # The answer says how often.
                self._pace.take(result)
                seat.connected = name == self.name
            seat.backoff.reset()
            seat.error = None
            me = result.get("me")
            seat.desired.on_answer(me if isinstance(me, dict) else seat.desired.me or {})

    def _on_error(self, seat: Seat, operation: str, error: PresenceError) -> None:
        seat.error = error
        if error.retryable or isinstance(error, Malformed):
            seat.desired.on_failure()
            seat.not_before = clock() + pause_after(error, seat.backoff)
        elif operation == "disconnect":
            self._remove(seat, error)
        else:
            fresh = seat.desired.me is None
            again = seat.desired.on_refusal(error)
            if operation == "connect" and (fresh or not again) and not seat.desired.dirty:
                self._remove(seat, error)

    def _remove(self, seat: Seat, error: Optional[PresenceError]) -> None:
        self._seats.pop(seat.id, None)
        seat.end(error)

    # -- the heartbeat

    async def _beat(self) -> None:
        while True:
            await wait_set(self._beat_now, self._pace.next_interval())
            self._beat_now.clear()
            await self._link.wait_up()
            if not self._seats:
                continue
            self._link.doubt()
            quiet, writes, name = not self._batches, self._writes, self.name
            try:
                answer = await self._calls.once("heartbeat", {"lease": name})
            except PresenceError as error:
                if isinstance(error, Closed):
                    raise
                self._states.set(self.state, error)
                await asyncio.sleep(pause_after(error, self._backoff))
                self._beat_now.set()
                continue
            self._backoff.reset()
            self._pace.take(answer)
            if name == self.name:
                self._on_beat(answer, quiet and not self._batches and writes == self._writes)

    def _on_beat(self, answer: Mapping[str, Any], quiet: bool) -> None:
        own, held = self.held, answer.get("held")
        if answer.get("unknown"):
            if own:
                self._move(relapsed=True)
            return
        self._states.set(ConnectionState.ONLINE)
        if not quiet or not isinstance(held, int) or held == own:
            if held == own:
                self._mismatches = 0
            return
        self._mismatches += 1
        if self._mismatches < 2:
            self._beat_now.set()
            return
        self._mismatches = 0
        if held < own:
            self._disconnect_seats()
        else:
            self._old.add(self.name)
            self._move(relapsed=False)

    def _move(self, *, relapsed: bool) -> None:
        """Takes a new name, and has all seats connect to it."""
        self.name = f"{self._base}-{random_id()}"
        self._mismatches = 0
        self._disconnect_seats()
        self._states.set(ConnectionState.ONLINE, relapsed=relapsed)

    def _disconnect_seats(self) -> None:
        for seat in self._seats.values():
            seat.connected = False
        self.wake()

    async def _end_old(self) -> None:
        for name in list(self._old):
            try:
                await self._calls.once("disconnect", {"lease": name})
                self._old.discard(name)
            except PresenceError as error:
                if not error.retryable:
                    self._old.discard(name)
                await asyncio.sleep(pause_after(error, self._backoff))
                self.wake()

    # -- the end

    async def _stop(self) -> None:
        tasks: list[asyncio.Task[None]] = [*self._tasks, *self._batches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, error: Optional[PresenceError]) -> None:
        for seat in list(self._seats.values()):
            self._remove(seat, error)
        for listeners, listener in self._listeners():
            if listener in listeners:
                listeners.remove(listener)
        self._states.set(ConnectionState.CLOSED, error)
