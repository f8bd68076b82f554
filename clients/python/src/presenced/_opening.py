"""``await`` and ``async with``, for all that has a beginning and an end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, TypeVar

Self = TypeVar("Self", bound="Opening")


class Opening(ABC):
    """``await`` begins it; ``async with`` also closes it at the end of the block."""

    @abstractmethod
    async def _open(self: Self) -> Self:
        """Begins; a repeat does nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Ends; a repeat does nothing."""

    def __await__(self: Self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self: Self) -> Self:
        return await self._open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
