"""What one connection wants of its user: patches, device, idleness, and who waits for them.

Holds no task and sends nothing. An own change is merged into the patch that is not acknowledged
yet; what is acknowledged is never sent again, except as ``defaults`` of a connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Optional

from ._patch import fields_to_keep, marks_of, merge, patch_of
from .errors import PresenceError

Json = dict[str, Any]
#: Done with None when what was wanted is acknowledged, else with what refuses it.
Waiter = asyncio.Future[Optional[PresenceError]]


class Desired:
    def __init__(
        self,
        patch: Json,
        device: Optional[str],
        idle: Optional[bool],
        defaults: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self._defaults = patch_of(defaults, {})
        marks_of(device=device, idle=idle)
        self.patch = patch
        self.marks: Json = {}
        self.me: Optional[Json] = None
        self._device = device
        self._idle = idle
        self._sent: Json = {}
        self._sent_marks: Json = {}
        self._set_before: Json = {}
        self._in_flight = False
        self._answered = False
        self._waiters: list[Waiter] = []
        self._sent_waiters: list[Waiter] = []

    @property
    def dirty(self) -> bool:
        return bool(self.patch or self.marks)

    @property
    def settled(self) -> bool:
        """Whether all that is wanted was acknowledged."""
        return self._answered and not self.dirty and not self._in_flight

    def want(self, patch: Mapping[str, Any]) -> None:
        self.patch = merge(self.patch, patch)

    def mark(self, **marks: Any) -> None:
        """Another idleness or device."""
        self.marks.update(marks)
        self._idle = marks.get("idle", self._idle)
        self._device = marks.get("device", self._device)

    async def acknowledged(self, timeout: Optional[float]) -> None:
        """Returns when all that is wanted now was acknowledged; raises what refuses it."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        rides = self._in_flight and not self.dirty
        (self._sent_waiters if rides else self._waiters).append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout)
            if not waiter.done():
                raise asyncio.TimeoutError
        finally:
            waiter.cancel()
        error = waiter.result()
        if error is not None:
            raise error

    def connect_body(self, id: Optional[str]) -> Json:
        """The user, device and idleness of a connect; all of it now counts as sent."""
        self._send(with_patch=True, with_marks=True)
        user = dict(self._sent)
        if id is not None:
            user["id"] = id
        body: Json = {"user": user}
        if self._device is not None:
            body["device"] = self._device
        if self._idle:
            body["idle"] = True
        made_again = {**self._defaults, **fields_to_keep(self._set_before, self.me)}
        for name in user:
            made_again.pop(name, None)
        if made_again:
            body["defaults"] = made_again
        return body

    def upsert_body(self) -> Json:
        self._send(with_patch=True, with_marks=False)
        return dict(self._sent)

    def marks_body(self) -> Json:
        self._send(with_patch=False, with_marks=True)
        return dict(self._sent_marks)

    def _send(self, *, with_patch: bool, with_marks: bool) -> None:
        self._in_flight = True
        if with_patch:
            self._sent, self.patch = self.patch, {}
        if with_marks:
            self._sent_marks, self.marks = self.marks, {}
        if not self.dirty:
            self._sent_waiters, self._waiters = self._sent_waiters + self._waiters, []

    def on_answer(self, me: Optional[Json]) -> None:
        self._in_flight, self._answered = False, True
        self._set_before = merge(self._set_before, self._sent)
        self._sent, self._sent_marks = {}, {}
        if me is not None:
            self.me = me
        waiters, self._sent_waiters = self._sent_waiters, []
        _tell(waiters, None)

    def on_failure(self) -> None:
        """What was sent may not have arrived: it is wanted as before."""
        self._in_flight = False
        self.patch = merge(self._sent, self.patch)
        self.marks = {**self._sent_marks, **self.marks}
        self._sent, self._sent_marks = {}, {}
        self._waiters, self._sent_waiters = self._sent_waiters + self._waiters, []

    def on_refusal(self, error: PresenceError) -> bool:
        """What was sent is wrong; True if a repeat without it may be accepted."""
        self._in_flight = False
        had_any = bool(self._sent or self._sent_marks)
        self._sent, self._sent_marks = {}, {}
        if self._set_before.pop("status_expires_at", None) is not None:
            # The end has passed by the daemon's clock: the status is nothing to begin with.
            self._set_before.pop("status", None)
            had_any = True
        waiters, self._sent_waiters = self._sent_waiters, []
        _tell(waiters, error)
        return had_any

    def end(self, error: PresenceError) -> None:
        """Nothing is sent any more."""
        _tell(self._waiters + self._sent_waiters, error)
        self._waiters, self._sent_waiters = [], []


def _tell(waiters: list[Waiter], error: Optional[PresenceError]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(error)
