"""The merge of events and answers: what is known of each user. No input or output.

A version never goes back: an event counts if it is newer than what is known, an answer also if it
is as new. The absence of a user in an answer counts unless an event came after the question.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ._model import User


class Step(NamedTuple):
    """A real difference. ``first``: nothing was known of the user before."""

    id: str
    before: Optional[User]
    user: Optional[User]
    first: bool


class Entry:
    """What is known of one user."""

    __slots__ = ("event_version", "events", "floor", "id", "known", "user")

    def __init__(self, id: str) -> None:
        self.id = id
        self.known = False
        self.user: Optional[User] = None
        # Versions at or below it are old, also after the user has gone.
        self.floor = 0
        # The newest version that came by event, and how many events counted.
        self.event_version = 0
        self.events = 0

    def on_event(self, user: User) -> Optional[Step]:
        if user.id != self.id:
            return None
        self.event_version = max(self.event_version, user.version)
        if user.version <= self.floor:
            return None
        self.events += 1
        return self._take(user)

    def on_answer(self, user: User) -> Optional[Step]:
        if user.id != self.id or user.version < self.floor:
            return None
        return self._take(user)

    def on_absent(self, events_when_asked: int) -> Optional[Step]:
        """The user is missing in the answer to a question asked after so many events."""
        if self.events != events_when_asked:
            return None
        return self._take(None)

    def _take(self, user: Optional[User]) -> Optional[Step]:
        before, first = self.user, not self.known
        self.user, self.known = user, True
        if user is not None:
            self.floor = max(self.floor, user.version)
        if not first and before == user:
            return None
        return Step(self.id, before, user, first)
