"""``await``, ``async with`` and tasks, for all that has a beginning and an end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar

from ._loop import OfLoop

T = TypeVar("T", covariant=True)
Self = TypeVar("Self", bound="Opened")
O = TypeVar("O", bound="Opened", covariant=True)  # noqa: E741


class Startable(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine, so that ``create_task`` takes it; what it runs is made at its first step."""

    _running: Optional[Coroutine[Any, Any, T]] = None

    @abstractmethod
    def _start(self) -> Coroutine[Any, Any, T]:
        """The coroutine that it runs."""

    def __await__(self) -> Generator[Any, None, T]:
        return self._start().__await__()

    def send(self, value: Any) -> Any:
        """A step of a task that runs this."""
        return self._step("send", value)

    def throw(self, *exception: Any) -> Any:
        """Raises an exception where this waits."""
        return self._step("throw", *exception)

    def _step(self, kind: str, *arguments: Any) -> Any:
        if self._running is None:
            self._running = self._start()
        try:
            return getattr(self._running, kind)(*arguments)
        except BaseException:
            self._on_end()
            raise

    def _on_end(self) -> None:
        """What it ran has ended."""

    def close(self) -> None:
        """Ends it, as `close` of a coroutine does."""
        if self._running is not None:
            self._running.close()


class Opened(OfLoop, ABC):
    """An object closed at its end: by ``close``, or by the block of an ``async with``."""

    @abstractmethod
    async def close(self) -> None:
        """Ends; a repeat does nothing."""

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()


class Opening(Startable[O]):
    """An object that begins: ``await`` returns it, ``async with`` also closes it after the block.

    It is a coroutine: a task may run it, it is awaited once, and Python warns if it never was.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, O]) -> None:
        self._running = coroutine
        self._opened: Optional[O] = None

    def __repr__(self) -> str:
        return f"<Opening by {self._running!r}>"

    def _start(self) -> Coroutine[Any, Any, O]:
        assert self._running is not None
        return self._running

    async def __aenter__(self) -> O:
        self._opened = await self
        return self._opened

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
