"""What one connection wants of its user: patches, device, idleness, and who waits for them.

Holds no task and sends nothing. An own change is merged into the patch that is not acknowledged
yet; what is acknowledged is never sent again, except as ``defaults`` of a connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Optional

from ._patch import defaults, merge
from .errors import PresenceError

Json = dict[str, Any]


class Desired:
    def __init__(self, patch: Json, device: Optional[str], idle: Optional[bool]) -> None:
        self.patch = patch
        self.marks: Json = {}
        self.me: Optional[Json] = None
        self._device = device
        self._idle = idle
        self._sent: Json = {}
        self._sent_marks: Json = {}
        self._set_before: Json = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._sent_waiters: list[asyncio.Future[None]] = []
        self._no_defaults = False

    @property
    def dirty(self) -> bool:
        return bool(self.patch or self.marks)

    def want(self, patch: Mapping[str, Any]) -> None:
        self.patch = merge(self.patch, patch)

    def mark(self, **marks: Any) -> None:
        """Another idleness or device."""
        self.marks.update(marks)
        self._idle = marks.get("idle", self._idle)
        self._device = marks.get("device", self._device)

    async def acknowledged(self, timeout: Optional[float]) -> None:
        """Returns when all that is wanted now was acknowledged; raises what refuses it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait({waiter}, timeout=timeout)
        if not waiter.done():
            waiter.cancel()
            raise asyncio.TimeoutError
        waiter.result()

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
        made_again = defaults(self._set_before, self.me)
        for name in user:
            made_again.pop(name, None)
        if self.me is not None and made_again:
            if not self._no_defaults:
                body["defaults"] = made_again
            elif made_again.get("invisible"):
                user["invisible"] = True
        return body

    def upsert_body(self) -> Json:
        self._send(with_patch=True, with_marks=False)
        return dict(self._sent)

    def marks_body(self) -> Json:
        self._send(with_patch=False, with_marks=True)
        return dict(self._sent_marks)

    def _send(self, *, with_patch: bool, with_marks: bool) -> None:
        if with_patch:
            self._sent, self.patch = self.patch, {}
        if with_marks:
            self._sent_marks, self.marks = self.marks, {}
        if not self.dirty:
            self._sent_waiters, self._waiters = self._sent_waiters + self._waiters, []

    def on_answer(self, me: Optional[Json]) -> None:
        self._set_before = merge(self._set_before, self._sent)
        self._sent, self._sent_marks = {}, {}
        if me is not None:
            self.me = me
        waiters, self._sent_waiters = self._sent_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def on_failure(self) -> None:
        """What was sent may not have arrived: it is wanted as before."""
        self.patch = merge(self._sent, self.patch)
        self.marks = {**self._sent_marks, **self.marks}
        self._sent, self._sent_marks = {}, {}
        self._waiters, self._sent_waiters = self._sent_waiters + self._waiters, []

    def on_refusal(self, error: PresenceError) -> bool:
        """What was sent is wrong; True if a repeat without it may be accepted."""
        if (error.field or "").endswith("defaults") and not self._no_defaults:
            self._no_defaults = True  # A daemon of an older version.
            self.on_failure()
            return True
        had_any = bool(self._sent or self._sent_marks)
        self._sent, self._sent_marks = {}, {}
        self.end(error, self._sent_waiters)
        self._sent_waiters = []
        return had_any

    def end(
        self, error: PresenceError, waiters: Optional[list[asyncio.Future[None]]] = None
    ) -> None:
        for waiter in self._waiters + self._sent_waiters if waiters is None else waiters:
            if not waiter.done():
                waiter.set_exception(error)
