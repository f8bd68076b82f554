"""The seats of a lease, and which of them have something to be sent. No input or output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Optional

from ._turns import Turn, Turns

if TYPE_CHECKING:
    from .seat import Seat


class SeatQueue:
    """A seat that is sent has a turn of its user."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._seats: dict[str, Seat] = {}
        self._of_user: defaultdict[str, set[Seat]] = defaultdict(set)
        self._dirty: dict[str, Seat] = {}  # Seats that may want something, in their order.
        self._taken: dict[str, Turn] = {}  # Of the seats with a request under way.

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    def __contains__(self, seat: Seat) -> bool:
        return seat.id in self._seats

    @property
    def wants(self) -> bool:
        """Whether any seat has something to be sent."""
        return any(seat._wants for seat in self._dirty.values())

    def add(self, seat: Seat) -> None:
        self._seats[seat.id] = seat
        self._of_user[seat.user_id].add(seat)

    def remove(self, seat: Seat) -> None:
        self._seats.pop(seat.id, None)
        self._dirty.pop(seat.id, None)
        self._of_user[seat.user_id].discard(seat)
        if not self._of_user[seat.user_id]:
            del self._of_user[seat.user_id]

    def look_at(self, seat: Seat) -> None:
        """The seat may want something."""
        self._dirty[seat.id] = seat

    def look_at_all(self) -> None:
        self._dirty = dict(self._seats)

    def next_batch(self, most: int, now: float) -> tuple[list[Seat], Optional[float]]:
        """Seats that want something, one for each user, none whose user has a request under way;
        and, if there are none, when the first that waits may be sent."""
        chosen: list[Seat] = []
        settled: list[Seat] = []
        wake_at: Optional[float] = None
        for seat in self._dirty.values():
            if not seat._wants:
                settled.append(seat)
                continue
            if not self._turns.is_free(seat.user_id):
                continue
            # Who connects waits for another seat of the user whose change may hide the user.
            if seat._gives_way and any(s._goes_first for s in self._of_user[seat.user_id]):
                continue
            if seat._not_before > now:
                wake_at = min(wake_at or seat._not_before, seat._not_before)
                continue
            turn = self._turns.take(seat.user_id)
            assert turn is not None
            self._taken[seat.id] = turn
            chosen.append(seat)
            if len(chosen) == most:
                break
        for seat in (*settled, *chosen):
            del self._dirty[seat.id]
        return chosen, None if chosen else wake_at

    def done(self, seats: Iterable[Seat]) -> None:
        """The requests of some seats have ended: they may want something again."""
        for seat in seats:
            if seat in self:
                self._dirty[seat.id] = seat
            self._taken.pop(seat.id).end()

    def turns_of(self, seats: Iterable[Seat]) -> list[Turn]:
        """The turns that seats have, which are being sent."""
        return [self._taken[seat.id] for seat in seats]

    def waits(self, user: str) -> bool:
        """Whether any seat of a user may want something."""
        return any(seat.id in self._dirty for seat in self._of_user.get(user, ()))
