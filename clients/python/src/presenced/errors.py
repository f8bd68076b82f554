"""The errors that calls raise. All derive from PresenceError."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional


class PresenceError(Exception):
    """The base of all errors of this package.

    ``code`` is the code of the contract (``limit_exceeded``, ``invalid_filter``, …) or, for errors
    that the client itself finds, the kind (``no_daemon``, ``no_answer``, ``permission``, …).
    """

    code: str = "error"
    #: A repeat of the call may succeed.
    retryable: bool = False
    #: The daemon may have carried out the request.
    may_have_applied: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: Optional[str] = None,
        details: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.details: Mapping[str, Any] = details or {}

    @property
    def field(self) -> Optional[str]:
        """The field of the request that was refused."""
        value = self.details.get("field")
        return value if isinstance(value, str) else None

    @property
    def limit(self) -> Optional[int]:
        """The limit that the request exceeds."""
        value = self.details.get("limit")
        return value if isinstance(value, int) else None

    @property
    def retry_after(self) -> Optional[float]:
        """Seconds that the daemon asks to wait before a repeat."""
        value = self.details.get("retry_after_ms")
        return value / 1000 if isinstance(value, (int, float)) else None


class Refused(PresenceError):
    """The request is wrong or forbidden; nothing was changed and a repeat is refused again."""

    code = "refused"


class Invalid(PresenceError, ValueError):
    """What the program passed can be no request; nothing was sent. ``field`` names it."""

    code = "invalid"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}", details={"field": field})
        self.args = (field, why)  # What makes it again, as for a copy.

    def __str__(self) -> str:
        return ": ".join(self.args)


class Busy(PresenceError):
    """``contended``, ``overloaded`` or ``unavailable`` until the deadline of the call."""

    code = "unavailable"
    retryable = True
    may_have_applied = True


class NoDaemon(PresenceError):
    """NATS answers that no daemon serves the subject."""

    code = "no_daemon"
    retryable = True


class NoAnswer(PresenceError):
    """No answer came in time."""

    code = "no_answer"
    retryable = True
    may_have_applied = True


class Denied(PresenceError):
    """NATS refuses this login, or a subject to it; ``subject`` names that."""

    code = "permission"

    def __init__(self, message: str, *, subject: str = "") -> None:
        super().__init__(message)
        self.subject = subject


class Disconnected(PresenceError):
    """The NATS connection is away, or broke while the request was under way."""

    code = "disconnected"
    retryable = True
    may_have_applied = True


class Closed(PresenceError):
    """The object, or the NATS connection below it, is closed."""

    code = "closed"


class Malformed(PresenceError):
    """The answer is not what the contract says."""

    code = "malformed"
    may_have_applied = True


def again(error: PresenceError) -> PresenceError:
    """A copy, to be raised from the cause of the error: one that is raised twice mixes up its
    tracebacks, and one that is raised from its like is printed twice."""
    return copy.copy(error)


# The place of one user in a request, which the caller does not see.
_PLACE = re.compile(r"(ops\[\d+\]\.)?(users\[0\]\.|user\.)?(?=.)")


def of_one_user(error: PresenceError) -> PresenceError:
    """The same error, with the field as the caller named it who changes one user."""
    place = _PLACE.match(error.field or "")
    if error.field and place and place.group():
        field = error.field[place.end() :]
        error.args = (str(error).replace(error.field, field),)
        error.details = {**error.details, "field": field}
    return error


@contextmanager
def about_one_user() -> Iterator[None]:
    """Errors that are raised within name the field as the caller did."""
    try:
        yield
    except PresenceError as error:
        of_one_user(error)
        raise


_BUSY = {"contended", "overloaded", "unavailable"}


def from_answer(error: Any, status: Optional[int] = None) -> PresenceError:
    """The exception of the ``error`` object in an answer with this status header."""
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return Malformed(f"an error without a code: {error!r}")
    code, details = error["code"], error.get("details")
    busy = code in _BUSY or status in (409, 429) or (status or 0) >= 500
    result = (Busy if busy else Refused)(
        str(error.get("message", code)),
        code=code,
        details=details if isinstance(details, dict) else None,
    )
    if code == "overloaded" or status == 429:
        result.may_have_applied = False
    return result
