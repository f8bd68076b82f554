"""Queries that page by themselves, and the types of filters and sorting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from typing import Any, Optional, Union

from ._calls import Calls
from ._model import Channel, User, parse_channel, parse_user
from .errors import Malformed

#: A filter in the language of the contract: ``{"online": True, "team": {"$in": ["red"]}}``.
Filter = Mapping[str, Any]
#: ``{"last_active": -1}``, or several of them in a list.
Sort = Union[Mapping[str, int], Sequence[Mapping[str, Any]]]

_USERS_A_PAGE = 100
_CHANNELS_A_PAGE = 30


class UserQuery:
    """``async for`` goes through all users, ``await`` returns them as a list."""

    def __init__(
        self, calls: Calls, body: Mapping[str, Any], sort: Optional[Sort], limit: Optional[int]
    ) -> None:
        self._calls = calls
        self._body = dict(body)
        self._sort = sort
        self._limit = limit

    def __aiter__(self) -> AsyncIterator[User]:
        return self._pages()

    def __await__(self) -> Generator[Any, None, list[User]]:
        return self._all().__await__()

    async def _all(self) -> list[User]:
        return [user async for user in self]

    async def _pages(self) -> AsyncIterator[User]:
        """By the last id in the order of ids, by offset in any other (up to 1000 by contract)."""
        filter, given, last = self._body.get("filter"), 0, None
        while self._limit is None or given < self._limit:
            left = _USERS_A_PAGE if self._limit is None else self._limit - given
            body = {**self._body, "limit": min(_USERS_A_PAGE, left)}
            if self._sort is not None:
                body.update(sort=self._sort, offset=given)
            elif last is not None:
                after = {"id": {"$gt": last}}
                body["filter"] = {"$and": [filter, after]} if filter else after
            answer = await self._calls.call("query_users", body)
            users = answer.get("users")
            if not isinstance(users, list):
                raise Malformed("query_users without users")
            for user in map(parse_user, users):
                given, last = given + 1, user.id
                yield user
            if not users or not _more(answer, len(users), body["limit"]):
                return


class ChannelQuery:
    """``async for`` goes through all channels, ``await`` returns them as a list."""

    def __init__(self, calls: Calls, body: Mapping[str, Any], limit: Optional[int]) -> None:
        self._calls = calls
        self._body = dict(body)
        self._limit = limit

    def __aiter__(self) -> AsyncIterator[Channel]:
        return self._pages()

    def __await__(self) -> Generator[Any, None, list[Channel]]:
        return self._all().__await__()

    async def _all(self) -> list[Channel]:
        return [channel async for channel in self]

    async def _pages(self) -> AsyncIterator[Channel]:
        given = 0
        while self._limit is None or given < self._limit:
            left = _CHANNELS_A_PAGE if self._limit is None else self._limit - given
            body = {**self._body, "limit": min(_CHANNELS_A_PAGE, left), "offset": given}
            answer = await self._calls.call("query_channels", body)
            channels = answer.get("channels")
            if not isinstance(channels, list):
                raise Malformed("query_channels without channels")
            for channel in map(parse_channel, channels):
                given += 1
                yield channel
            if not channels or not _more(answer, len(channels), body["limit"]):
                return


def _more(answer: Mapping[str, Any], found: int, limit: int) -> bool:
    """Whether others match; daemons of older versions do not say so."""
    more = answer.get("more", found >= limit)
    return more is True
