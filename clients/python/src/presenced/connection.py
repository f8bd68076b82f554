"""One connection of one user: connects, sends heartbeats, and keeps what the application wants.

One task sends one request after the other, each after the answer of the one before. Nothing is
queued: a loss of the link leaves the desired state, which rides in the next connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Callable, Optional

from ._background import spawn
from ._calls import Calls, Json
from ._desired import Desired
from ._link import Link, LinkEvent
from ._model import ConnectionState, Me, parse_me
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
from ._session import Session
from ._states import HasState, States
from ._turns import Turn
from .errors import Closed, Malformed, PresenceError, about_one_user


class Connection(HasState, Session):
    """A user being online: made by ``connect`` of a client.

    ``async with`` and ``await`` wait for the first answer; leaving the block disconnects.
    """

    def __init__(
        self,
        link: Link,
        calls: Calls,
        user: str,
        named: Optional[str],
        desired: Desired,
        on_me: Callable[[Me], None],
        on_open: Callable[[Connection], None],
        on_end: Callable[[Connection], None],
        peers: Collection[Connection],
    ) -> None:
        super().__init__(user, desired)
        self._link = link
        self._calls = calls
        self._named = named  # The user's id where bodies name it: at the first door.
        self._on_me = on_me
        self._on_open = on_open
        self._on_end = on_end
        self._peers = peers  # The open connections of the door.
        self._states = States(f"the connection of {user!r}", link.outage)
        self._pace = Pace()
        self._backoff = Backoff()
        self._silence = Silence(calls.answers)
        self._write_backoff = Backoff()
        self._write_at = 0.0  # Not before, after a write that failed.
        self._write_error: Optional[PresenceError] = None
        self._turn: Optional[Turn] = None
        self._wake = asyncio.Event()
        self._task: Optional[asyncio.Task[None]] = None
        self._connected = False
        self._was_sent = False
        self._may_be_there = False  # Whether a connect without an answer was carried out.
        self._relapsed = False
        self._doubt = True
        self._beats = 0
        self._beat_at = 0.0
        self._created_at: Optional[datetime] = None

    def __repr__(self) -> str:
        return f"<Connection of {self.user_id!r}, {self.state}>"

    @property
    def me(self) -> Optional[Me]:
        """The user's own view, as the last answer to its door had it; None before the first."""
        return self._desired.known.me

    async def update(
        self,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = CALL_TIMEOUT,
        **named: Any,
    ) -> Me:
        """Changes the user, and returns its own view; None as a value removes a field.

        A change that is not acknowledged in time raises the reason, but stays desired: it is sent
        when that is possible. A change that is refused is dropped.
        """
        await self._want(timeout, user_patch(fields, named))
        if self.me is None:
            raise Malformed("the answers are without the user's own view")
        return self.me

    async def close(self, *, timeout: Optional[float] = LAST_DISCONNECT) -> None:
        """Disconnects, for which it tries until the timeout; else the lease ends it."""
        self.check_loop()
        seconds_of(timeout)
        if self.state is ConnectionState.CLOSED:
            return
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
            if self._link.is_up and self._was_sent:
                await self._say_goodbye(timeout)
        except asyncio.CancelledError:
            if self._was_sent:
                await self._calls.leave(self._body(connection_id=self.id))
            raise
        finally:
            self._finish()

    async def _say_goodbye(self, timeout: Optional[float]) -> None:
        """Disconnects, if that can be done in time."""
        goodbye = asyncio.ensure_future(self._disconnect(timeout))
        try:
            await asyncio.wait({goodbye}, timeout=timeout)
        finally:
            goodbye.cancel()
            await asyncio.gather(goodbye, return_exceptions=True)

    async def _disconnect(self, timeout: Optional[float]) -> None:
        """Disconnects after the request under way; but one without an answer has no time to spare,
        and the daemons remember a disconnect that overtakes its connect."""
        ends_at = None if timeout is None else clock() + timeout
        patience = LAST_TRY if timeout is None else min(LAST_TRY, timeout / 2)
        async with self._calls.turns.held([self.user_id], clock() + patience):
            body = self._body(connection_id=self.id)
            left = None if ends_at is None else ends_at - clock()
            await self._calls.call("disconnect", body, left, each=LAST_TRY)

    async def _open(self) -> Connection:
        self._link.check_begin()
        self.check_loop()
        self._link.start()
        self._link.listeners.append(self._on_link)
        self._on_open(self)
        self._task = spawn(self._run(), repr(self), self._finish)
        try:
            await self._desired.acknowledged(None)
        except BaseException:
            await self.close()
            raise
        return self

    def _on_link(self, event: LinkEvent) -> None:
        if event is LinkEvent.DOUBT:
            self._doubt, self._beat_at = True, 0.0
        else:
            self._connected = False
            if event is not LinkEvent.UP and self.state is ConnectionState.ONLINE:
                self._states.set(ConnectionState.INTERRUPTED)
        self._wake.set()

    # -- the task

    def _send_soon(self) -> None:
        if self.state is ConnectionState.CLOSED:
            raise Closed("the connection is closed")
        self._wake.set()

    def _why_not(self) -> Optional[PresenceError]:
        return self._write_error or self.last_error

    def _is_link_up(self) -> bool:
        return self._link.is_up

    async def _run(self) -> None:
        while True:
            try:
                await self._link.wait_up()
                if self._connected and clock() >= self._beat_at:
                    await self._beat()  # It needs no order, and waits for no other's request.
                elif not self._connected or self._may_write:
                    await self._send()
                else:
                    await self._idle()
            except PresenceError as error:
                self._desired.on_failure()
                self._note(error)
                await asyncio.sleep(pause_after(error, self._backoff, self._pace.interval))

    def _note(self, error: PresenceError) -> None:
        """Shows a failure of a request; raises it if there is no other try."""
        if isinstance(error, Closed) or not (error.retryable or error.may_have_applied):
            raise error
        self._may_be_there |= error.may_have_applied
        is_silent = self._silence.on_error(error)
        stays = self._connected and self.state is ConnectionState.ONLINE and not is_silent
        self._states.set(self.state if stays else self._waiting(), error)
        self._doubt = True

    def _waiting(self) -> ConnectionState:
        fresh = self.state is ConnectionState.CONNECTING
        return ConnectionState.CONNECTING if fresh else ConnectionState.INTERRUPTED

    def _gives_way(self) -> bool:
        """Whether another connection of the user goes first: its change may hide the user."""
        if self._connected or self._desired.changed:
            return False
        return any(
            peer._task is not None and not peer._connected and peer._desired.changed
            for peer in self._peers
            if peer.user_id == self.user_id
        )

    def _wake_peers(self) -> None:
        for peer in self._peers:
            if peer.user_id == self.user_id and not peer._connected:
                peer._wake.set()

    @property
    def _may_write(self) -> bool:
        return self._desired.dirty and clock() >= self._write_at

    async def _send(self) -> None:
        """Sends one connect or write in its turn, for which no heartbeat waits."""
        until = self._beat_at if self._connected else None
        async with self._calls.turns.held([self.user_id], until) as self._turn:
            waits = self._gives_way()
            if self._turn is not None and not waits:
                await self._step()
        if waits:
            await self._wake.wait()
            self._wake.clear()

    async def _step(self) -> None:
        if not self._connected and self._desired.apart:
            await self._upsert()
        elif not self._connected:
            await self._connect()
        elif self._may_write:
            await self._write()

    async def _idle(self) -> None:
        next_at = min(self._beat_at, self._write_at) if self._desired.dirty else self._beat_at
        await wait_set(self._wake, max(0.0, next_at - clock()))
        self._wake.clear()

    async def _write(self) -> None:
        try:
            if self._desired.guarded:
                await self._connect()
            elif self._desired.changed:
                await self._upsert()
            else:
                await self._update_connection()
        except PresenceError as error:
            self._desired.on_failure()
            self._note(error)
            self._write_error = error
            self._write_at = clock() + pause_after(error, self._write_backoff)
        else:
            self._on_written()

    def _on_written(self) -> None:
        self._write_error, self._write_at = None, 0.0
        self._write_backoff.reset()

    async def _ask(self, operation: str, body: Json) -> Optional[Json]:
        """One try of a write; None if it was refused, which those who wait are told."""
        try:
            with about_one_user():
                turns = () if self._turn is None else (self._turn,)
                request = self._calls.once(operation, body)
                return self._heard(await self._calls.turns.run(turns, request))
        except PresenceError as error:
            if error.retryable or error.may_have_applied:
                raise
            if self._desired.drop_default(error) or self._desired.split():
                return None
            goes_on = self._desired.on_refusal(error)
            if not self._connected and not goes_on:
                if self._may_be_there:
                    await self._calls.leave(self._body(connection_id=self.id))
                raise
            return None

    async def _connect(self) -> None:
        body = {**self._desired.connect_body(self._named), "connection_id": self.id}
        self._was_sent = True
        answer = await self._ask("connect", body)
        if answer is None:
            return
        was_there = self._connected or self._relapsed
        self._connected = self._may_be_there = True
        self._wake_peers()
        self._on_written()
        recreated = self._take_answer(answer)
        self._states.set(
            ConnectionState.ONLINE, relapsed=self._relapsed, recreated=was_there and recreated
        )
        self._relapsed = False
        self._doubt, self._beats = True, 0
        if not self._link.is_up:  # The link dropped just after the answer.
            self._connected = False
            self._states.set(ConnectionState.INTERRUPTED)

    async def _upsert(self) -> None:
        user = self._desired.upsert_body(self._connected)
        if self._named is not None:
            user["id"] = self._named
        answer = await self._ask("upsert_users", {"users": [user]})
        if answer is not None:
            users = answer.get("users")
            me = users.get(self.user_id) if isinstance(users, dict) else None
            self._take_answer({**answer, "me": me})

    async def _update_connection(self) -> None:
        body = self._body(connection_id=self.id, **self._desired.marks_body())
        answer = await self._ask("update_connection", body)
        if answer is None:
            return
        if answer.get("unknown"):
            self._desired.on_failure()
            self._relapse()
        else:
            self._desired.on_answer(None)

    async def _beat(self) -> None:
        late = clock() - self._beat_at > self._pace.interval / 2 and self._beat_at > 0
        asks = self._doubt or late or self._beats % 2 == 0
        self._beats += 1
        self._link.doubt()  # A PING goes with each heartbeat.
        body = self._body(connection_id=self.id)
        if not asks:
            await self._calls.publish("heartbeat", body)
        else:
            answer = self._heard(await self._calls.once("heartbeat", body))
            self._pace.take(answer)
            self._doubt = False
            if answer.get("unknown"):
                self._relapse()
                return
            if self._connected:
                self._states.set(ConnectionState.ONLINE)
        self._backoff.reset()
        self._beat_at = clock() + self._pace.next_interval()

    def _heard(self, answer: Json) -> Json:
        """Notes that the daemons answer."""
        self._silence.on_answer()
        if self._connected and self.state is ConnectionState.INTERRUPTED:
            self._states.set(ConnectionState.ONLINE)
        return answer

    def _relapse(self) -> None:
        self._connected, self._relapsed = False, True

    def _take_answer(self, answer: Mapping[str, Any]) -> bool:
        """Takes the answer of a write; True if the user's record is a new one."""
        me = answer.get("me")
        parsed = parse_me(me) if isinstance(me, dict) else None
        self._pace.take(answer)
        self._backoff.reset()
        self._beat_at = clock() + self._pace.next_interval()
        self._desired.on_answer(parsed)
        if parsed is None:
            return False
        self._on_me(parsed)
        older, newer = self._created_at, parsed.created_at
        self._created_at = newer or older
        return older is not None and newer is not None and newer > older

    def _body(self, **fields: Any) -> dict[str, Any]:
        return fields if self._named is None else {"user_id": self._named, **fields}

    # -- the end

    def _finish(self, error: Optional[PresenceError] = None) -> None:
        self._connected = False
        self._states.set(ConnectionState.CLOSED, error)
        self._desired.end(error or Closed("the connection is closed"))
        if self._on_link in self._link.listeners:
            self._link.listeners.remove(self._on_link)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._on_end(self)
        self._wake_peers()
