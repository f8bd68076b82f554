"""The merge of events and answers: what is known of each user. No input or output.

A version never goes back: an event counts if it is newer than what is known, an answer also if it
is as new. The absence of a user in an answer counts unless an event came after the question.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Optional

from ._model import User


class Step(NamedTuple):
    """A real difference. ``first``: nothing was known of the user before."""

    id: str
    before: Optional[User]
    user: Optional[User]
    first: bool


class Asked(NamedTuple):
    """The state when a question was sent: its number, and the events that counted until then."""

    number: int
    events: int


_numbers = count(1)


def question() -> Asked:
    """A question whose answer may hold any users; who is missing in it may still be there."""
    return Asked(next(_numbers), -1)


class Entry:
    """The knowledge of one user."""

    __slots__ = (
        "_answered",
        "_events",
        "_floor",
        "event_version",
        "id",
        "known",
        "user",
    )

    def __init__(self, id: str) -> None:
        self.id: str = id
        self.known: bool = False
        self.user: Optional[User] = None
        #: The newest version that came by event.
        self.event_version: int = 0
        # Versions at or below it are old, also after the user has gone.
        self._floor = -1
        self._events = 0
        self._answered = 0

    @property
    def version(self) -> int:
        return max(self._floor, 0)

    def ask(self) -> Asked:
        return Asked(next(_numbers), self._events)

    def on_event(self, user: User) -> Optional[Step]:
        self.event_version = max(self.event_version, user.version)
        if user.version <= self._floor:
            return None
        self._events += 1
        return self._take(user)

    def on_answer(self, user: Optional[User], asked: Asked) -> Optional[Step]:
        """The user in the answer to a question; None: the answer holds no such user."""
        late = asked.number < self._answered
        self._answered = max(self._answered, asked.number)
        if user is None:
            taken = not late and asked.events == self._events
        else:
            taken = user.version > self._floor or (user.version == self._floor and not late)
        return self._take(user) if taken else None

    def _take(self, user: Optional[User]) -> Optional[Step]:
        if user is not None:
            self._floor = max(self._floor, user.version)
            if user.created_at is None:
                user = None  # Deleted, or never made.
        before, first = self.user, not self.known
        self.user, self.known = user, True
        if not first and before == user:
            return None
        return Step(self.id, before, user, first)
