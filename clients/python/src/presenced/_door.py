"""The parts that both doors share. ``Service`` acts for anyone, ``UserClient`` as one user.

Operations that a door lacks do not exist on its type.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Optional, TypeVar, Union

from nats.aio.client import Client

from ._calls import Calls, Json, chunks
from ._channel_watch import ChannelWatch
from ._desired import Desired
from ._filter import Filter, Sort
from ._hub import Hub
from ._hub_watch import UserWatch
from ._knowledge import KnownUsers
from ._link import Link
from ._matching_watch import MatchingWatch
from ._model import Me, User, parse_me
from ._nats import close_nats
from ._opening import Opened, Opening
from ._pace import LAST_DISCONNECT
from ._patch import audit_of, limit_of, patch_of, seconds_of
from ._picture import question
from ._query import ChannelQuery, UserQuery, query_body
from ._tokens import id_of, ids_of, subject_of
from .connection import Connection
from .errors import Malformed
from .lease import Lease
from .watch import Watch

IDS_A_QUERY = 100
# The members of a channel that are returned at most.
MEMBERS = 100
PREFIX = "presence"
EVENTS = "user.presence.changed"
AUDIT = 600.0

W = TypeVar("W", bound=Watch)


class Door(Opened):
    """The base of both doors. Closing it ends what it runs; the NATS connection is the caller's."""

    def __init__(
        self,
        nc: Client,
        user: Optional[str],
        prefix: str,
        events: str,
        audit: Optional[float],
    ) -> None:
        check_options(prefix, events, audit)
        self._link = Link(nc)
        self._calls = Calls(self._link, prefix, user)
        self._user = user
        self._hub = Hub(self._link, self._calls, events, user, audit)
        self._users = KnownUsers()
        self._connections: set[Connection] = set()
        self._leases: set[Lease] = set()
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._owned: Optional[Client] = None  # A NATS connection that ends with this.

    def __repr__(self) -> str:
        who = "" if self._user is None else f" of {self._user!r}"
        return f"<{type(self).__name__}{who}, {'up' if self._link.is_up else 'down'}>"

    def observe(self, error: Optional[Exception] = None) -> None:
        """Takes what a callback of the NATS connection was called with; it costs next to nothing.

        A connection of ``presenced.connect`` does so by itself. One that is the application's may
        call it in its ``error_cb``, so that dropped messages are noticed at once.
        """
        self._link.observe(error)

    async def close(self, *, timeout: Optional[float] = LAST_DISCONNECT) -> None:
        """Disconnects what is connected, for which it tries until the timeout, and ends watches;
        leaves nothing running."""
        self._link.check_loop()
        seconds_of(timeout)
        self._link.ending = True
        sessions: list[Union[Connection, Lease]] = [*self._connections, *self._leases]
        async with AsyncExitStack() as ends:
            if self._owned is not None:
                ends.push_async_callback(close_nats, self._owned)
            ends.push_async_callback(self._calls.turns.close)
            ends.push_async_callback(self._link.close)
            ends.push_async_callback(self._hub.close)
            for session in sessions:
                ends.callback(session._finish)  # Where its close was cancelled before it began.
            for watch in list(self._watches):
                watch._end(None)
            await asyncio.gather(*(session.close(timeout=timeout) for session in sessions))

    # -- others

    def watch(self, ids: Iterable[str]) -> Opening[UserWatch]:
        """Watches users: ``async with client.watch(["john"]) as watch``."""
        return self._opening(UserWatch(self._hub, ids_of(ids)))

    def watch_where(
        self, filter: Filter, *, sort: Optional[Sort] = None, limit: int = 100
    ) -> Opening[MatchingWatch]:
        """Watches the first users that match, at most 100; they come and go with what they are."""
        limit_of(limit, IDS_A_QUERY)
        query = UserQuery(self._calls, query_body(filter, presence=True), sort, limit)
        return self._opening(MatchingWatch(self._hub, self._link, query))

    def watch_channel(
        self,
        type: str,
        id: str,
        *,
        data: Optional[Mapping[str, Any]] = None,
        users: Union[str, Iterable[str]] = "first",
        member_limit: int = MEMBERS,
        online_count: bool = False,
    ) -> Opening[ChannelWatch]:
        """Watches members of a channel, which is made where there is none: of ``data``, or empty.
        Members who join later are not added.

        ``users`` is ``"first"`` (the first ten in order of joining), ``"all"`` or a list of ids.
        """
        body: dict[str, Any] = {"type": id_of(type, "type"), "id": id_of(id)}
        body["member_limit"] = limit_of(member_limit, MEMBERS, "member_limit")
        if data is not None:
            body["data"] = patch_of(data, {}, "data")
        if online_count:
            body["online_count"] = True
        return self._opening(ChannelWatch(self._hub, self._calls, body, users))

    def users(
        self,
        filter: Optional[Filter] = None,
        *,
        sort: Optional[Sort] = None,
        limit: Optional[int] = None,
        seen_by: Optional[str] = None,
        fresh: bool = False,
    ) -> UserQuery:
        """Users that match: ``async for`` goes through all, ``await`` returns a list.

        ``seen_by`` names whose view it is; ``fresh`` waits for all that is stored already.
        """
        body = query_body(filter, presence=fresh or None, **_viewer(seen_by))
        take = self._hub.take_answers if seen_by is None else None
        return UserQuery(self._calls, body, sort, limit, take)

    def channels(
        self,
        filter: Optional[Filter] = None,
        *,
        sort: Optional[Sort] = None,
        limit: Optional[int] = None,
        online_count: bool = False,
        seen_by: Optional[str] = None,
    ) -> ChannelQuery:
        """Channels that match: ``async for`` goes through all, ``await`` returns a list."""
        body = query_body(filter, online_count=online_count or None, **_viewer(seen_by))
        return ChannelQuery(self._calls, body, sort, limit)

    async def count(
        self,
        filter: Optional[Filter] = None,
        *,
        seen_by: Optional[str] = None,
        fresh: bool = False,
    ) -> int:
        """The number of users who match."""
        body = query_body(filter, presence=fresh or None, **_viewer(seen_by))
        count = (await self._calls.call("count_users", body)).get("count")
        if not isinstance(count, int):
            raise Malformed("count_users without a count")
        return count

    async def get_many(self, ids: Iterable[str]) -> dict[str, Optional[User]]:
        """Users by id, as they are now; None where there is no such user."""
        wanted = list(dict.fromkeys(ids_of(ids)))
        found: dict[str, User] = {}
        for chunk in chunks(wanted, IDS_A_QUERY):
            found.update(await self._hub.get_users(chunk))
        return {id: found.get(id) for id in wanted}

    async def get(self, id: str) -> Optional[User]:
        """A user as it is now; None where there is no such user."""
        return (await self.get_many([id_of(id)]))[id]

    # -- for both

    def _connect(
        self,
        user: str,
        named: Optional[str],
        desired: Desired,
    ) -> Opening[Connection]:
        connection = Connection(
            self._link,
            self._calls,
            user,
            named,
            desired,
            self._take_me if named is None else lambda me: None,
            self._connections.add,
            self._connections.discard,
            self._connections,
        )
        return Opening(connection._open())

    async def _write_users(self, patches: Sequence[tuple[str, Json]]) -> dict[str, Me]:
        """Changes users, in their turn."""
        users = [id for id, _ in patches]
        return await self._calls.tried(partial(self._write_once, patches), users=users)

    async def _write_once(
        self, patches: Sequence[tuple[str, Json]], timeout: float
    ) -> dict[str, Me]:
        """One try. A user whose record this makes again is hidden before it can be connected."""
        views = await self._upsert_once(patches, timeout)
        known = {id: knowledge for id, _ in patches if (knowledge := self._users.get(id))}
        lost = [
            (id, fields)
            for id, patch in patches
            if id in known and (fields := known[id].lost(patch, views.get(id)))
        ]
        if lost:
            views.update(await self._upsert_once(lost, timeout))
        for id, patch in [*patches, *lost]:
            if id in known:
                known[id].on_write(patch, views.get(id))
        return views

    async def _upsert_once(
        self, patches: Sequence[tuple[str, Json]], timeout: float
    ) -> dict[str, Me]:
        is_named = self._user is None  # At the second door the subject names the user.
        users = [{**patch, "id": id} if is_named else patch for id, patch in patches]
        return own_views(await self._calls.once("upsert_users", {"users": users}, timeout))

    def _take_me(self, me: Me) -> None:
        self._hub.take_answers([me], question())

    def _opening(self, watch: W) -> Opening[W]:
        self._watches.add(watch)
        return Opening(watch._open())


def check_options(prefix: str, events: str, audit: Optional[float]) -> None:
    """Raises Invalid for options of a door that can be none."""
    subject_of(prefix, "prefix")
    subject_of(events, "events")
    audit_of(audit)


def _viewer(seen_by: Optional[str]) -> Json:
    return {} if seen_by is None else {"as": id_of(seen_by, "seen_by")}


def own_view(views: Mapping[str, Me], id: str) -> Me:
    """The own view of one user in the answer of a write."""
    view = views.get(id)
    if view is None:
        raise Malformed(f"upsert_users without {id!r}")
    return view


def own_views(answer: Mapping[str, Any]) -> dict[str, Me]:
    users = answer.get("users")
    if not isinstance(users, dict):
        raise Malformed("upsert_users without users")
    return {id: parse_me(body) for id, body in users.items()}
