"""Requests: JSON in and out, tries and pauses within a deadline, errors by their kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Optional, TypeVar

from ._link import Link
from ._pace import CALL_TIMEOUT, TRY_TIMEOUT, Backoff, acquired, clock, pause_after
from ._tokens import encode
from .errors import Malformed, NoAnswer, PresenceError, from_answer

Json = dict[str, Any]
T = TypeVar("T")


def dumps(body: Mapping[str, Any]) -> bytes:
    # ASCII, so that half a surrogate pair, too, goes as the contract takes it.
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def parse_answer(data: bytes, status: Optional[str] = None) -> Json:
    """The body of an answer; raises the error that it holds."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("the answer is not JSON, or nested too deeply") from error
    if not isinstance(answer, dict):
        raise Malformed("the answer is no object")
    if "error" in answer:
        number = int(status) if status is not None and status.isdigit() else None
        raise from_answer(answer["error"], number)
    return answer


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def is_too_large(error: PresenceError, number: int) -> bool:
    """Whether what was asked for is too much for one message, and half of it may not be."""
    return error.code == "too_large" and number > 1


class _TooLate(Exception):
    """The deadline passed before the try began."""


@asynccontextmanager
async def _held(lock: Optional[asyncio.Lock], deadline: Optional[float]) -> AsyncIterator[None]:
    """Holds a lock, if there is one, in a try that begins before the deadline."""
    left = None if deadline is None else deadline - clock()
    if left is not None and left <= 0:
        raise _TooLate
    if lock is None:
        yield
        return
    if not await acquired(lock, left):
        raise _TooLate
    try:
        if deadline is not None and clock() >= deadline:
            raise _TooLate
        yield
    finally:
        lock.release()


def _unsent(operation: str) -> NoAnswer:
    error = NoAnswer(f"{operation} was not sent in time: another request of the user is under way")
    error.may_have_applied = False
    return error


class Calls:
    """The operations at one door. ``user``: the second door, as this user."""

    def __init__(self, link: Link, prefix: str, user: Optional[str]) -> None:
        self.link = link
        self._prefix = f"{prefix}.v1"
        self._door = "" if user is None else f".{encode(user)}"

    def subject(self, operation: str) -> str:
        return f"{self._prefix}.{operation}{self._door}"

    async def once(
        self, operation: str, body: Mapping[str, Any], timeout: float = TRY_TIMEOUT
    ) -> Json:
        """One try."""
        try:
            message = await self.link.request(self.subject(operation), dumps(body), timeout)
        except NoAnswer:
            self.link.doubt()
            raise
        status = (message.headers or {}).get("Nats-Service-Error-Code")
        answer = parse_answer(message.data, status)
        self.link.outage.over()
        return answer

    async def publish(self, operation: str, body: Mapping[str, Any]) -> None:
        """One message without an answer."""
        await self.link.publish(self.subject(operation), dumps(body))

    async def leave(self, body: Mapping[str, Any]) -> None:
        """A disconnect for whose answer there is no time."""
        if self.link.is_up:
            with suppress(PresenceError):
                await self.publish("disconnect", body)

    async def call(
        self,
        operation: str,
        body: Mapping[str, Any],
        timeout: Optional[float] = CALL_TIMEOUT,
        lock: Optional[asyncio.Lock] = None,
    ) -> Json:
        """Tries until an answer, a refusal or the deadline (None: for ever).

        ``lock`` is held during each try, not in between.
        """
        self.link.check_loop()
        deadline = None if timeout is None else clock() + timeout
        backoff = Backoff()
        last: Optional[PresenceError] = None
        while True:
            try:
                async with _held(lock, deadline):
                    left = TRY_TIMEOUT if deadline is None else deadline - clock()
                    return await self.once(operation, body, min(TRY_TIMEOUT, left))
            except _TooLate:
                raise last or _unsent(operation) from None
            except PresenceError as error:
                may_have_applied = error.may_have_applied
                if last is not None:
                    may_have_applied |= last.may_have_applied
                if last is None or left >= TRY_TIMEOUT or not isinstance(error, NoAnswer):
                    last = (
                        error  # A try that the deadline cut short tells less than the one before.
                    )
                last.may_have_applied = may_have_applied
                if not error.retryable:
                    raise
                await self._pause(last, backoff, deadline)

    async def _pause(
        self, error: PresenceError, backoff: Backoff, deadline: Optional[float]
    ) -> None:
        """Waits before the next try; raises the error if there is no time for one."""
        pause = pause_after(error, backoff)
        if deadline is not None and clock() + pause >= deadline:
            raise error
        await asyncio.sleep(pause)
        if not self.link.is_up:
            left = None if deadline is None else max(0.0, deadline - clock())
            if not await self.link.wait_up(left):
                raise error
