"""A seat: one connection of one user on a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from ._desired import Desired
from ._model import ConnectionState, Me
from ._pace import CALL_TIMEOUT, LAST_DISCONNECT, Backoff, wait_set
from ._patch import seconds_of, user_patch
from ._session import Session
from ._states import HasState, States
from .errors import Closed, PresenceError

if TYPE_CHECKING:
    from .lease import Lease


class Seat(HasState, Session):
    """A user being online on a lease: made by ``connect`` of the lease.

    ``async with`` and ``await`` wait for the first answer; leaving the block disconnects.
    """

    def __init__(self, lease: Lease, user: str, desired: Desired, timeout: Optional[float]) -> None:
        super().__init__(user, desired)
        self._lease = lease
        self._timeout = timeout
        self._connected = False
        self._closing = False
        self._may_be_there = False  # Whether the daemons may hold it, though it is not connected.
        self._not_before = 0.0
        self._backoff = Backoff()
        self._relapsed = False
        self._failure: Optional[PresenceError] = None  # What it was given up for.
        self._ended = asyncio.Event()
        self._states = States()

    def __repr__(self) -> str:
        return f"<Seat of {self.user_id!r}, {self.state}>"

    async def update(
        self,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = CALL_TIMEOUT,
        **named: Any,
    ) -> None:
        """Changes the user; returns when that is acknowledged. None as a value removes a field."""
        await self._want(timeout, user_patch(fields, named))

    async def close(self, *, timeout: Optional[float] = LAST_DISCONNECT) -> None:
        """Disconnects; what is not acknowledged in time goes on in the background."""
        self.check_loop()
        seconds_of(timeout)
        if not self._ended.is_set():
            self._leave()
            await wait_set(self._ended, timeout)

    async def _open(self) -> Seat:
        self._lease.check_loop()
        self._lease._take(self)
        try:
            await self._want(self._timeout)
        except BaseException:
            self._leave()  # It may have been applied: it is disconnected afterwards.
            raise
        return self

    def _leave(self) -> None:
        self._closing = True
        if self._lease._has(self):
            self._lease._look_at(self)
        else:
            self._end(None)

    def _give_up(self, error: PresenceError) -> None:
        """Fails: it is disconnected, as it may have been connected."""
        self._failure = error
        self._states.set(self.state, error)
        self._desired.end(error)
        self._leave()

    def _send_soon(self) -> None:
        if self._closing or self._ended.is_set():
            raise Closed("the seat is closed") from self.last_error
        self._lease._look_at(self)

    def _why_not(self) -> Optional[PresenceError]:
        return self.last_error

    def _is_link_up(self) -> bool:
        return self._lease._link.is_up

    @property
    def _wants(self) -> bool:
        return self._closing or not self._connected or self._desired.dirty

    @property
    def _goes_first(self) -> bool:
        return not self._closing and not self._connected and self._desired.changed

    @property
    def _gives_way(self) -> bool:
        return not self._closing and not self._connected and not self._desired.changed

    # -- what the lease tells

    def _operation(self, lease: str) -> dict[str, Any]:
        """The next operation of a batch."""
        where = {"user_id": self.user_id, "connection_id": self.id}
        if self._closing:
            return {"op": "disconnect", **where}
        if self._desired.guarded or (not self._connected and not self._desired.apart):
            body = self._desired.connect_body(self.user_id)
            return {"op": "connect", **body, "connection_id": self.id, "lease": lease}
        if self._desired.changed:
            user = {**self._desired.upsert_body(self._connected), "id": self.user_id}
            return {"op": "upsert_users", "users": [user]}
        return {"op": "update_connection", **where, **self._desired.marks_body()}

    def _on_connected(self, *, created: bool) -> None:
        was_there = self._connected or self._relapsed
        self._connected = self._may_be_there = True
        relapsed, self._relapsed = self._relapsed, False
        self._states.set(ConnectionState.ONLINE, relapsed=relapsed, recreated=was_there and created)

    def _on_answer(self, me: Optional[Me]) -> None:
        """An operation was carried out. ``me``: the own view without custom fields."""
        self._backoff.reset()
        self._states.set(self.state)
        self._desired.on_answer(me, whole=False)

    def _on_held(self) -> None:
        """The lease is alive, and holds those who are connected."""
        if self._connected:
            self._states.set(ConnectionState.ONLINE)

    def _on_lost(self, *, relapsed: bool) -> None:
        """The daemons may hold it no longer: it connects again."""
        self._connected, self._relapsed = False, self._relapsed or relapsed
        if self.state is ConnectionState.ONLINE:
            self._states.set(ConnectionState.INTERRUPTED)

    def _end(self, error: Optional[PresenceError]) -> None:
        self._connected = False
        error = error or self._failure
        self._states.set(ConnectionState.CLOSED, error)
        self._desired.end(error or Closed("the seat is closed"))
        self._ended.set()
