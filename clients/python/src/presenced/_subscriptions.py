"""Subscriptions that are known to be heard by the server, or refused by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Callable, Optional

from ._nats import Nats, OnMessage, Subscription


class Subscriptions:
    """``round_trip`` waits for the server, and has what it refused in between told here."""

    def __init__(self, nats: Nats, round_trip: Callable[[], Awaitable[None]]) -> None:
        self._nats = nats
        self._round_trip = round_trip
        self._lock: Optional[asyncio.Lock] = None
        # Subjects of subscriptions that are being made, and refusals, in lower case.
        self._making: set[str] = set()
        self._refusals: set[str] = set()
        self._held: set[Subscription] = set()
        # Which of them the server refuses now is unknown.
        self._suspects: set[Subscription] = set()

    def __bool__(self) -> bool:
        return bool(self._held)

    def holds(self, sub: Optional[Subscription]) -> bool:
        """Whether a subscription was made, and nothing says that the server has dropped it."""
        return sub in self._held

    def is_own(self, sub: Subscription) -> bool:
        """Whether a subscription is one of these, and none of the application's."""
        return sub in self._held or sub in self._suspects

    async def subscribe(
        self, subjects: Sequence[str], on_message: OnMessage
    ) -> dict[str, Optional[Subscription]]:
        """Subscribes, and returns when the server has taken note; None where it refuses."""
        self._lock = self._lock or asyncio.Lock()
        made: dict[str, Subscription] = {}
        try:
            async with self._lock:
                for sub in list(self._suspects):
                    await self.unsubscribe(sub)
                refused = await self._subscribe(subjects, made, on_message)
                if refused:
                    # A borrowed connection tells only the last refusal: look at each alone.
                    for subject in [subject for subject in subjects if subject in made]:
                        await self.unsubscribe(made.pop(subject))
                        await self._subscribe([subject], made, on_message)
        except BaseException:
            for sub in made.values():
                await self.unsubscribe(sub)
            raise
        return {subject: made.get(subject) for subject in subjects}

    async def _subscribe(
        self, subjects: Sequence[str], made: dict[str, Subscription], on_message: OnMessage
    ) -> bool:
        """Subscribes to some subjects; True if any was refused, which is then not in ``made``."""
        self._refusals.clear()
        self._making = {subject.lower() for subject in subjects}
        try:
            for subject in subjects:
                made[subject] = await self._nats.subscribe(subject, on_message)
                self._held.add(made[subject])
            await self._round_trip()
        finally:
            self._making = set()
        refused = [subject for subject in subjects if subject.lower() in self._refusals]
        for subject in refused:
            await self.unsubscribe(made.pop(subject))
        return bool(refused)

    async def unsubscribe(self, sub: Subscription) -> None:
        self._held.discard(sub)
        self._suspects.discard(sub)
        await self._nats.unsubscribe(sub)

    def on_refusal(self, subject: str) -> bool:
        """The server refuses a subject; True if that withdraws what was held."""
        if subject in self._making:
            self._refusals.add(subject)
            return False
        withdrawn = any(sub.subject.lower() == subject for sub in self._held)
        if withdrawn:
            # Others may be withdrawn too, as only the last refusal is told.
            self._suspects |= self._held
            self._held = set()
        return withdrawn
