"""A seat: one connection of one user on a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from ._desired import Desired
from ._pace import CALL_TIMEOUT, Backoff, wait_set
from ._patch import patch_of
from ._session import Session
from .errors import Closed, PresenceError

if TYPE_CHECKING:
    from .lease import Lease


class Seat(Session):
    """A user being online on a lease: made by ``connect`` of the lease.

    ``async with`` and ``await`` wait for the first answer; leaving the block disconnects.
    """

    def __init__(self, lease: Lease, user: str, desired: Desired, timeout: Optional[float]) -> None:
        super().__init__(user, desired)
        self._lease = lease
        self._timeout = timeout
        self._connected = False
        self._closing = False
        self._not_before = 0.0
        self._backoff = Backoff()
        self._error: Optional[PresenceError] = None
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        state = "connected" if self._connected else "closed" if self._ended.is_set() else "waiting"
        return f"<Seat of {self.user_id!r}, {state}>"

    @property
    def connected(self) -> bool:
        """Whether the daemons have acknowledged the connection."""
        return self._connected

    @property
    def error(self) -> Optional[PresenceError]:
        """The last failure."""
        return self._error

    async def update(
        self,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = CALL_TIMEOUT,
        **named: Any,
    ) -> None:
        """Changes the user; returns when that is acknowledged. None as a value removes a field."""
        await self._want(timeout, patch_of(fields, named))

    async def close(self, *, timeout: Optional[float] = CALL_TIMEOUT) -> None:
        """Disconnects; what is not acknowledged in time goes on in the background."""
        if not self._ended.is_set():
            self._leave()
            await wait_set(self._ended, timeout)

    async def _open(self) -> Seat:
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
        self._error = error
        self._desired.end(error)
        self._leave()

    def _send_soon(self) -> None:
        if self._closing or self._ended.is_set():
            raise Closed("the seat is closed") from self._error
        self._lease._look_at(self)

    def _why_not(self) -> Optional[PresenceError]:
        return self._error

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

    def _end(self, error: Optional[PresenceError]) -> None:
        self._connected = False
        self._error = error or self._error
        self._desired.end(error or Closed("the seat is closed"))
        self._ended.set()
