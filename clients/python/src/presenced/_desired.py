"""The wishes of one connection for its user: patches, device, idleness, and their waiters.

Holds no task and sends nothing. Own changes that are not acknowledged yet go as one patch; if that
is refused, half of them and then the others, so that a wrong one takes no other with it. What is
acknowledged is never sent again, except as ``defaults`` of a connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Optional

from ._knowledge import Knowledge
from ._model import Me
from ._patch import marks_of, merge, user_patch
from .errors import PresenceError, again

Json = dict[str, Any]
#: Done with None when what was wanted is acknowledged, else with what refuses it.
Waiter = asyncio.Future[Optional[PresenceError]]


class Change:
    """One change, and who waits for it. ``opening``: what the connection begins with."""

    def __init__(self, patch: Mapping[str, Any], opening: bool = False) -> None:
        self.patch = patch
        self.opening = opening
        self.waiters: list[Waiter] = []

    @property
    def is_awaited(self) -> bool:
        return any(not waiter.done() for waiter in self.waiters)


class Desired:
    def __init__(
        self,
        patch: Json,
        device: Optional[str],
        idle: Optional[bool],
        defaults: Optional[Mapping[str, Any]],
        known: Knowledge,
    ) -> None:
        self._defaults = user_patch(defaults, {}, "defaults")
        marks_of(device=device, idle=idle)
        self._changes = [Change(patch, opening=True)] if patch else []
        self._groups: list[int] = []  # How many of the changes go together, one after the other.
        self.marks: Json = {}
        self.known: Knowledge = known
        self._device = device
        self._sent_device = device
        self._acknowledged_device: Optional[str] = None
        self._idle = idle
        self._sent: list[Change] = []
        self._sent_marks: Json = {}
        self._sent_defaults: Json = {}
        self._refused_defaults: set[str] = set()
        self._in_flight = False
        self._answered = False
        self._waiters: list[Waiter] = []
        self._sent_waiters: list[Waiter] = []

    @property
    def dirty(self) -> bool:
        return bool(self._changes or self.marks)

    @property
    def changed(self) -> bool:
        """Whether there are changes of the user to be sent."""
        return bool(self._changes)

    @property
    def apart(self) -> bool:
        """Whether changes go in groups: before a connect, as they may hide the user."""
        return bool(self._groups)

    @property
    def settled(self) -> bool:
        """Whether all that is wanted was acknowledged."""
        return self._answered and not self.dirty and not self._in_flight

    def want(self, patch: Mapping[str, Any]) -> Optional[Change]:
        if not patch:
            return None
        self._drop_superseded(patch)
        self._changes.append(Change(patch))
        return self._changes[-1]

    def _drop_superseded(self, patch: Mapping[str, Any]) -> None:
        """Drops what nobody waits for and this sets again, so that no outage has it grow."""
        tail = sum(self._groups)  # Before it, they go as they were sent first.
        self._changes[tail:] = [
            change
            for change in self._changes[tail:]
            if change.opening or change.is_awaited or not change.patch.keys() <= patch.keys()
        ]

    def mark(self, **marks: Any) -> None:
        """Another idleness or device."""
        self.marks.update(marks)
        self._idle = marks.get("idle", self._idle)
        self._device = marks.get("device", self._device)

    async def acknowledged(self, timeout: Optional[float], change: Optional[Change] = None) -> None:
        """Returns when a change, or all that is wanted, was acknowledged, or raises."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        rides = self._in_flight and not self.dirty
        waiters = self._sent_waiters if rides else self._waiters
        (waiters if change is None else change.waiters).append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout)
            if not waiter.done():
                raise asyncio.TimeoutError
        finally:
            waiter.cancel()
        error = waiter.result()
        if error is not None:
            raise again(error) from error.__cause__

    def connect_body(self, id: Optional[str]) -> Json:
        """The user, device and idleness of a connect; all of it now counts as sent."""
        self._send(with_patch=True, with_marks=True)
        user = _merged(self._sent)
        if id is not None:
            user["id"] = id
        body: Json = {"user": user}
        if self._device is not None:
            body["device"] = self._device
        if self._idle:
            body["idle"] = True
        made_again = self._made_again()
        for name in user:
            made_again.pop(name, None)
        self._sent_defaults = made_again
        if made_again:
            body["defaults"] = made_again
        return body

    def _made_again(self) -> Json:
        """The fields of a user whose record is gone."""
        made_again = {**self._defaults, **self.known.to_keep}
        return {k: v for k, v in made_again.items() if k not in self._refused_defaults}

    @property
    def guarded(self) -> bool:
        """True if changes ride in a connect: they would make a record that was deleted meanwhile
        again, and without the fields that have to survive. An invisible user stays so."""
        made_again = self._made_again()
        chosen = made_again.get("availability", "auto") != "auto"
        survives = made_again.get("invisible") or chosen or self._defaults
        return self.changed and not self.apart and bool(survives)

    def upsert_body(self, connected: bool) -> Json:
        waiters = self._waiters
        if not connected:
            self._waiters = []  # They wait for the connect.
        self._send(with_patch=True, with_marks=False)
        self._waiters = waiters if not connected else self._waiters
        return _merged(self._sent)

    def marks_body(self) -> Json:
        self._send(with_patch=False, with_marks=True)
        return dict(self._sent_marks)

    def _send(self, *, with_patch: bool, with_marks: bool) -> None:
        self._in_flight = True
        self._sent_defaults = {}
        if with_patch:
            number = self._groups[0] if self._groups else len(self._changes)
            self._sent, self._changes = self._changes[:number], self._changes[number:]
        if with_marks:
            self._sent_marks, self.marks = self.marks, {}
        self._sent_device = self._device if with_marks else self._acknowledged_device
        if not self.dirty:
            self._sent_waiters, self._waiters = self._sent_waiters + self._waiters, []

    def on_answer(self, me: Optional[Me], *, whole: bool = True) -> None:
        self._in_flight, self._answered = False, True
        self._acknowledged_device = self._sent_device
        acknowledged = _merged(self._sent)
        self.known.on_write(acknowledged, me, whole=whole)
        self._refused_defaults.difference_update(acknowledged)
        self._tell_sent(None)

    def on_failure(self) -> None:
        """Wants again as before what was sent, as it may not have arrived."""
        self._in_flight = False
        self._changes = self._sent + self._changes
        self.marks = {**self._sent_marks, **self.marks}
        self._sent, self._sent_marks = [], {}
        self._waiters, self._sent_waiters = self._sent_waiters + self._waiters, []

    def drop_default(self, error: PresenceError) -> bool:
        """A field is refused that the connection adds for a record to be made again: it goes
        without. False if something else was refused."""
        _, _, name = (error.field or "").rpartition("defaults.")
        own = name in self._defaults and not self._answered
        if name == error.field or name not in self._sent_defaults or own:
            return False
        self._refused_defaults.add(name)
        if name == "status_expires_at":  # It has passed by the daemon's clock: so has the status.
            self._refused_defaults.add("status")
        self.on_failure()
        return True

    def split(self) -> bool:
        """Has what was refused together sent in two parts. False if it was one thing."""
        number = len(self._sent)
        several = number > 1 or bool(number and self._sent_marks)
        if several:
            self.on_failure()
            half = number // 2
            parts = [half, number - half] if half else [number]
            self._groups[:1] = parts
        return several

    def on_refusal(self, error: PresenceError) -> bool:
        """Drops what was sent, as it is wrong; True if the connection goes on without it."""
        had_any = bool(self._sent or self._sent_marks)
        opening = not self._answered and all(change.opening for change in self._sent)
        self._in_flight = False
        self._return_device()
        self._tell_sent(error)
        return had_any and not opening

    def _return_device(self) -> None:
        """A device that was refused is wanted no longer; the idleness beside it is."""
        if "device" in self._sent_marks:
            self._device = self.marks.get("device", self._acknowledged_device)
            del self._sent_marks["device"]
            self.marks = {**self._sent_marks, **self.marks}

    def end(self, error: PresenceError) -> None:
        """Nothing is sent any more."""
        self.known = self.known.apart()
        self._tell_sent(error)
        for change in self._changes:
            _tell(change.waiters, error)
        _tell(self._waiters, error)
        self._waiters = []

    def _tell_sent(self, error: Optional[PresenceError]) -> None:
        """Tells those who wait for what was sent that it was answered."""
        if self._sent:
            del self._groups[:1]
        for change in self._sent:
            _tell(change.waiters, error)
        _tell(self._sent_waiters, error)
        self._sent, self._sent_marks, self._sent_waiters = [], {}, []


def _merged(changes: list[Change]) -> Json:
    patch: Json = {}
    for change in changes:
        patch = merge(patch, change.patch)
    return patch


def _tell(waiters: list[Waiter], error: Optional[PresenceError]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(error)
