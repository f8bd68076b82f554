"""Requests: JSON in and out, tries and pauses within a deadline, errors by their kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Callable, Optional, TypeVar

from ._link import Link
from ._pace import CALL_TIMEOUT, LONGEST_PAUSE, TRY_TIMEOUT, Answers, Backoff, clock, pause_after
from ._tokens import encode
from ._turns import Turns
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


def _unsent() -> NoAnswer:
    error = NoAnswer("not sent in time: another request of the user is under way")
    error.may_have_applied = False
    return error


class Calls:
    """The operations at one door. ``user``: the second door, as this user."""

    def __init__(self, link: Link, prefix: str, user: Optional[str]) -> None:
        self.link = link
        self.turns: Turns = Turns()
        self.answers: Answers = Answers()
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
        self.answers.number += 1
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
        users: Sequence[str] = (),
        each: float = TRY_TIMEOUT,
    ) -> Json:
        """Tries until an answer, a refusal or the deadline (None: for ever).

        Each try lasts ``each`` seconds at most, and has a turn of the ``users``, which do not have
        one in between.
        """
        return await self.tried(lambda left: self.once(operation, body, left), timeout, users, each)

    async def tried(
        self,
        send: Callable[[float], Coroutine[Any, Any, T]],
        timeout: Optional[float] = CALL_TIMEOUT,
        users: Sequence[str] = (),
        each: float = TRY_TIMEOUT,
    ) -> T:
        """As ``call``; ``send`` is one try, in the seconds that it is called with."""
        self.link.check_loop()
        deadline = None if timeout is None else clock() + timeout
        backoff = Backoff()
        longest = LONGEST_PAUSE if each == TRY_TIMEOUT else each / 4  # A short try has no time.
        last: Optional[PresenceError] = None
        while True:
            left = each
            try:
                async with self.turns.held(users, deadline) as turn:
                    if deadline is not None:
                        left = min(each, deadline - clock())
                    if turn is None or left <= 0:
                        raise _TooLate
                    request = send(left)
                    return await (self.turns.run([turn], request) if users else request)
            except _TooLate:
                raise last or _unsent() from None
            except PresenceError as error:
                may_have_applied = error.may_have_applied
                if last is not None:
                    may_have_applied |= last.may_have_applied
                # A try that the deadline cut short tells less than the one before.
                if last is None or left >= each or not isinstance(error, NoAnswer):
                    last = error
                last.may_have_applied = may_have_applied
                if not error.retryable:
                    raise
                await self._pause(last, backoff, deadline, longest)

    async def _pause(
        self, error: PresenceError, backoff: Backoff, deadline: Optional[float], at_most: float
    ) -> None:
        """Waits before the next try; raises the error if there is no time for one."""
        pause = pause_after(error, backoff, at_most)
        if deadline is not None and clock() + pause >= deadline:
            raise error
        await asyncio.sleep(pause)
        if not self.link.is_up:
            left = None if deadline is None else max(0.0, deadline - clock())
            if not await self.link.wait_up(left):
                raise error
