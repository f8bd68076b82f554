"""One user of a hub, and the ways to ask for it. No input or output."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from nats.aio.subscription import Subscription

from ._model import User
from ._pace import Backoff
from ._picture import Entry

if TYPE_CHECKING:
    from ._hub_watch import HubWatch

#: Asks for users; those who are missing in the result do not exist.
Ask = Callable[[Sequence[str]], Awaitable[dict[str, User]]]


class Source:
    """One way to ask for users, with a back-off of its own."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.not_before: float = 0.0
        self.backoff: Backoff = Backoff()


class Slot:
    """One user that is watched."""

    def __init__(self, id: str, subject: str) -> None:
        self.entry: Entry = Entry(id)
        self.subject = subject
        self.watches: set[HubWatch] = set()
        self.sub: Optional[Subscription] = None
        self.denied: bool = False
        self.answered: set[Source] = set()  # Who was asked since the last doubt.
        self.asking: Optional[Source] = None
        self.unused_since: float = 0.0
        self.audited_at: float = 0.0

    def doubt(self) -> None:
        """Has it asked for again."""
        self.answered.clear()

    @property
    def fresh(self) -> bool:
        """Whether the source of each watch was asked: each knows its own members."""
        return all(watch._source in self.answered for watch in self.watches)
