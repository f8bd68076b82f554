"""The base of a connection and of a seat: a user, and what is wanted of it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Optional

from ._desired import Desired
from ._opening import Opened
from ._pace import CALL_TIMEOUT
from ._patch import marks_of, seconds_of
from ._tokens import random_id
from .errors import Disconnected, NoAnswer, PresenceError, again


class Session(Opened):
    """One connection of one user. ``id`` is new for each, and stays over reconnects."""

    def __init__(self, user: str, desired: Desired) -> None:
        self._desired = desired
        self.user_id: str = user
        self.id: str = random_id()

    async def set_idle(self, idle: bool, *, timeout: Optional[float] = CALL_TIMEOUT) -> None:
        """Says whether the person behind this connection is idle."""
        await self._want(timeout, idle=idle)

    async def set_device(self, device: str, *, timeout: Optional[float] = CALL_TIMEOUT) -> None:
        """Names the kind of device behind this connection."""
        await self._want(timeout, device=device)

    @abstractmethod
    def _send_soon(self) -> None:
        """Has what is wanted sent; raises Closed if it never will be."""

    @abstractmethod
    def _why_not(self) -> Optional[PresenceError]:
        """The reason why what is wanted is not acknowledged yet."""

    @abstractmethod
    def _is_link_up(self) -> bool:
        """Whether NATS is there."""

    async def _want(
        self, timeout: Optional[float], patch: Optional[Mapping[str, Any]] = None, **marks: Any
    ) -> None:
        """Returns when a change of the user, the device or the idleness was acknowledged."""
        self.check_loop()
        seconds_of(timeout)
        marks_of(**marks)
        self._send_soon()
        change = self._desired.want(patch or {})
        self._desired.mark(**marks)
        if self._desired.settled:
            return
        try:
            await self._desired.acknowledged(timeout, change)
        except asyncio.TimeoutError:
            error = self._why_not()
            if not self._is_link_up():
                raise Disconnected("NATS is away: the change goes with the next connect") from error
            if error is None:
                raise NoAnswer("the change is not acknowledged yet") from None
            raise again(error) from error.__cause__
