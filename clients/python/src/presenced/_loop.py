"""The event loop that an object belongs to."""

from __future__ import annotations

import asyncio
from typing import Optional


class OfLoop:
    """An object that belongs to one event loop: the first in which it is used."""

    _loop: Optional[asyncio.AbstractEventLoop] = None

    def check_loop(self) -> None:
        """Raises RuntimeError in another event loop, or outside of any."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None:
            self._loop = self._home() or running
        if running is None or running is not self._loop:
            raise RuntimeError(
                "this presence client belongs to another event loop: make one in each that uses it"
            )

    def _home(self) -> Optional[asyncio.AbstractEventLoop]:
        """The event loop of what it stands on, where that is known."""
        return None
