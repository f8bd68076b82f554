"""Queries that page by themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Callable, Generic, Optional, TypeVar

from ._calls import Calls, Json, is_too_large
from ._filter import Filter, Sort
from ._model import Channel, User, parse_channels, parse_users
from ._opening import Startable
from ._patch import check_names, limit_of, nested, patch_of
from ._picture import Asked, question
from .errors import Invalid, Refused

T = TypeVar("T")
# How many members of a channel are returned, if nothing else is asked for.
_MEMBERS = 100


def query_body(filter: Optional[Filter], **others: Any) -> Json:
    """The body of a query; what is None is left out."""
    body = {name: value for name, value in others.items() if value is not None}
    if filter is not None and (patch := patch_of(filter, {}, "filter")):
        body["filter"] = patch
    return body


def _sort_of(sort: Any) -> Any:
    """An order that an application gave; the daemon checks the fields."""
    parts = sort if isinstance(sort, (list, tuple)) else [sort]
    for part in parts:
        if not isinstance(part, Mapping):
            raise Invalid("sort", f"a mapping, or a list of them, not a {type(part).__name__}")
        check_names(part, "sort")
    return nested(sort, "sort")


class Query(Startable[list[T]], Generic[T]):
    """``async for`` goes through all that match, ``await`` returns them as a list."""

    _page_size: int

    def __init__(
        self, calls: Calls, body: Mapping[str, Any], sort: Optional[Sort], limit: Optional[int]
    ) -> None:
        self._calls = calls
        self._body = dict(body)
        self._limit = limit_of(limit)
        if sort is not None:
            self._body["sort"] = _sort_of(sort)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._body}>"

    async def __aiter__(self) -> AsyncIterator[T]:
        given, last, size = 0, None, self._page_size
        while self._limit is None or given < self._limit:
            left = size if self._limit is None else self._limit - given
            size = min(size, left)
            body = {**self._body, "limit": size, **self._behind(given, last)}
            try:
                items, more = await self._page(body)
            except Refused as error:
                if not is_too_large(error, size):
                    raise
                size //= 2
                continue
            for item in items:
                given, last = given + 1, item
                yield item
            if not items or not more:
                return

    def _start(self) -> Coroutine[Any, Any, list[T]]:
        return self._all()

    def _on_end(self) -> None:
        self._running = None  # It may be run again.

    async def _all(self) -> list[T]:
        return [item async for item in self]

    def _behind(self, given: int, last: Optional[T]) -> Json:
        """The part of a body that has the next page begin behind those that were given."""
        return {"offset": given}

    @abstractmethod
    async def _page(self, body: Json) -> tuple[list[T], bool]:
        """One page, and whether others match."""


class UserQuery(Query[User]):
    """``async for`` goes through all users, ``await`` returns them as a list.

    In the order of ids there is no end; any other goes up to an offset of 1000, by contract.
    """

    _page_size = 100

    def __init__(
        self,
        calls: Calls,
        body: Mapping[str, Any],
        sort: Optional[Sort],
        limit: Optional[int],
        take: Optional[Callable[[list[User], Asked], None]] = None,
    ) -> None:
        # The order that there is without any.
        super().__init__(calls, body, None if sort == {"id": 1} else sort, limit)
        self._take = take  # Who else takes what is found.

    def _behind(self, given: int, last: Optional[User]) -> Json:
        if "sort" in self._body:
            return {"offset": given}
        if last is None:
            return {}
        filter, after = self._body.get("filter"), {"id": {"$gt": last.id}}
        return {"filter": {"$and": [filter, after]} if filter else after}

    async def _page(self, body: Json) -> tuple[list[User], bool]:
        asked = question()
        answer = await self._calls.call("query_users", body)
        users = parse_users(answer)
        if self._take is not None:
            self._take(users, asked)
        return users, answer.get("more") is True


class ChannelQuery(Query[Channel]):
    """``async for`` goes through all channels, ``await`` returns them as a list.

    Of a channel whose members are too many for one answer, fewer are returned.
    """

    _page_size = 30

    async def _page(self, body: Json) -> tuple[list[Channel], bool]:
        try:
            answer = await self._calls.call("query_channels", body)
        except Refused as error:
            members = body.get("member_limit", _MEMBERS)
            if body["limit"] > 1 or not is_too_large(error, members):
                raise
            return await self._page({**body, "member_limit": members // 2})
        return parse_channels(answer), answer.get("more") is True
