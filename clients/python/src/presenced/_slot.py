"""One user of a hub, and what its watches have of it. No input or output."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Optional

from ._picture import Entry, Step

if TYPE_CHECKING:
    from ._hub_watch import HubWatch
    from ._nats import Subscription
    from ._questions import Source


class Standing(Enum):
    """The standing of one user in a watch."""

    DENIED = "denied"
    SETTLED = "settled"  # Its source has answered since the last doubt.
    STALE = "stale"  # Something is known, and in doubt.
    ASKED = "asked"  # The source has not answered yet.


class Slot:
    """One user that is watched. Each change of what a watch has of it is told to that watch."""

    def __init__(self, id: str, subject: str) -> None:
        self.entry: Entry = Entry(id)
        self.subject = subject
        self.watches: set[HubWatch] = set()
        self.sub: Optional[Subscription] = None
        self.denied: bool = False
        self.asking: Optional[Source] = None
        self.unused_since: float = 0.0
        self.audited_at: float = 0.0
        self._sources: dict[Source, int] = {}  # Of the watches, and how many have each.
        self._answered: set[Source] = set()  # Who was asked since the last doubt.

    def add(self, watch: HubWatch) -> None:
        if watch not in self.watches:
            self.watches.add(watch)
            self._sources[watch._source] = self._sources.get(watch._source, 0) + 1

    def discard(self, watch: HubWatch) -> None:
        if watch in self.watches:
            self.watches.discard(watch)
            self._sources[watch._source] -= 1
            if not self._sources[watch._source]:
                del self._sources[watch._source]

    @property
    def fresh(self) -> bool:
        """Whether the source of each watch was asked: each knows its own members."""
        return self._sources.keys() <= self._answered

    @property
    def sources(self) -> set[Source]:
        """Those of its watches."""
        return set(self._sources)

    @property
    def unanswered(self) -> set[Source]:
        """Sources that are to be asked."""
        return self._sources.keys() - self._answered

    def standing(self, source: Source, own: Optional[str]) -> Standing:
        """The standing in a watch with this source; ``own`` is the door's user."""
        if self.denied:
            return Standing.DENIED
        if source in self._answered:
            return Standing.ASKED if self.asking is source else Standing.SETTLED
        # The own view is asked for after each own event, which is no reason to distrust the rest.
        is_stale = self.entry.known and self.entry.id != own
        return Standing.STALE if is_stale else Standing.ASKED

    def spread(self, step: Optional[Step]) -> None:
        """Tells all watches of a difference, if there is one."""
        if step is not None:
            for watch in list(self.watches):
                watch._sort(self)
                watch._take(step)

    def doubt(self) -> None:
        """Has it asked for again."""
        self._answered.clear()
        self._tell()

    def deny(self) -> None:
        """NATS refuses its events or the question to this login."""
        self.denied = True
        self._tell()

    def allow(self) -> None:
        """Notes that it may be allowed again."""
        self.denied = False
        self._tell()

    def begin(self, source: Source) -> None:
        """A source is asked. A doubt meanwhile has it asked again."""
        self.asking = source
        self._answered.add(source)
        self._tell()

    def end(self, source: Source, done: bool) -> None:
        """The source has answered, or failed to."""
        self.asking = None
        if not done:
            self._answered.discard(source)
        self._tell()

    def _tell(self) -> None:
        for watch in self.watches:
            watch._sort(self)
