"""The two doors: ``Service`` acts for anyone, ``UserClient`` as one user.

Operations that a door lacks do not exist on its type.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Optional, TypeVar, Union

from nats.aio.client import Client

from ._calls import Calls
from ._desired import Desired
from ._hub import Hub
from ._link import Link
from ._model import Channel, Me, User, parse_channel, parse_me
from ._patch import patch_of
from ._query import ChannelQuery, Filter, Sort, UserQuery
from ._tokens import encode
from .connection import Connection
from .errors import Malformed
from .lease import Lease
from .watch import ChannelWatch, Watch

_IDS_A_QUERY = 100
_AUDIT = 600.0

D = TypeVar("D", bound="Door")


class Door:
    """What both doors have. Closing it ends what it runs; the NATS connection is the caller's."""

    def __init__(
        self,
        nc: Client,
        user: Optional[str],
        *,
        prefix: str = "presence",
        events: str = "user.presence.changed",
        audit: Optional[float] = _AUDIT,
    ) -> None:
        self._link = Link(nc)
        self._calls = Calls(self._link, prefix, user)
        self._user = user
        self._hub = Hub(self._link, self._calls, events, user, audit)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._connections: set[Connection] = set()
        self._leases: set[Lease] = set()
        self._owned: Optional[Client] = None

    @property
    def link(self) -> Link:
        """The state of the NATS connection below, to which callbacks of nats-py may be passed."""
        return self._link

    def own(self, nc: Client) -> None:
        """Has ``close`` close the NATS connection, too."""
        self._owned = nc

    async def close(self) -> None:
        """Disconnects what is connected, ends watches; leaves nothing running."""
        ends = [connection.close() for connection in self._connections]
        ends += [lease.close() for lease in self._leases]
        await asyncio.gather(*ends)
        await self._hub.close()
        await self._link.close()
        if self._owned is not None:
            await self._owned.close()

    async def __aenter__(self: D) -> D:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    # -- others

    def watch(self, ids: Iterable[str]) -> Watch:
        """Watches users: ``async with client.watch(["john"]) as watch``."""
        if isinstance(ids, str):
            raise TypeError("watch takes several ids, in a list")
        return Watch(self._hub, ids)

    def watch_channel(
        self,
        type: str,
        id: str,
        *,
        data: Optional[Mapping[str, Any]] = None,
        users: Union[str, Iterable[str]] = "first",
        member_limit: int = 100,
        online_count: bool = False,
    ) -> ChannelWatch:
        """Watches members of a channel, which is made of ``data`` where there is none."""
        return ChannelWatch(
            self._hub, self._calls, _channel_body(type, id, data, member_limit, online_count), users
        )

    def users(
        self,
        filter: Optional[Filter] = None,
        *,
        sort: Optional[Sort] = None,
        limit: Optional[int] = None,
        seen_by: Optional[str] = None,
        fresh: bool = False,
    ) -> UserQuery:
        """Users that match, as ``seen_by`` sees them; ``fresh``: with all that is stored."""
        return UserQuery(self._calls, _query_body(filter, fresh, seen_by), sort, limit)

    def channels(
        self,
        filter: Optional[Filter] = None,
        *,
        sort: Optional[Sort] = None,
        limit: Optional[int] = None,
        online_count: bool = False,
    ) -> ChannelQuery:
        body = _query_body(filter)
        if sort is not None:
            body["sort"] = sort
        if online_count:
            body["online_count"] = True
        return ChannelQuery(self._calls, body, limit)

    async def count(self, filter: Optional[Filter] = None) -> int:
        """How many users match."""
        answer = await self._calls.call("count_users", _query_body(filter))
        count = answer.get("count")
        if not isinstance(count, int):
            raise Malformed("count_users without a count")
        return count

    async def get_many(self, ids: Iterable[str]) -> dict[str, Optional[User]]:
        """Users by id, as they are now; None where there is no such user."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, User] = {}
        for start in range(0, len(wanted), _IDS_A_QUERY):
            found.update(await self._hub.ask_users(wanted[start : start + _IDS_A_QUERY]))
        return {id: found.get(id) for id in wanted}

    async def get(self, id: str) -> Optional[User]:
        return (await self.get_many([id]))[id]

    # -- for both

    def _connect(
        self,
        user: str,
        named: Optional[str],
        patch: Any,
        device: Optional[str],
        idle: Optional[bool],
    ) -> Connection:
        connection = Connection(
            self._link,
            self._calls,
            self._lock(user),
            user,
            named,
            Desired(patch, device, idle),
            self._hub.take_answer if named is None else lambda me: None,
            self._connections.discard,
        )
        self._connections.add(connection)
        return connection

    def _lock(self, user: str) -> asyncio.Lock:
        lock = self._locks.get(user)
        if lock is None:
            lock = self._locks[user] = asyncio.Lock()
        return lock


class UserClient(Door):
    """The second door: one user's own client, which sees itself as it truly is."""

    def __init__(self, nc: Client, user: str, **options: Any) -> None:
        super().__init__(nc, user, **options)
        self.id = user

    def connect(
        self,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        device: Optional[str] = None,
        idle: Optional[bool] = None,
        **named: Any,
    ) -> Connection:
        """Comes online: ``async with me.connect(status="hello") as connection``."""
        return self._connect(self.id, None, patch_of(fields, named), device, idle)

    async def update(self, fields: Optional[Mapping[str, Any]] = None, **named: Any) -> Me:
        """Changes the user without being connected; None as a value removes a field."""
        async with self._lock(self.id):
            body = {"users": [patch_of(fields, named)]}
            answer = await self._calls.call("upsert_users", body)
        return _own_views(answer)[self.id]


class Service(Door):
    """The first door: a trusted service, which acts for any user."""

    def __init__(self, nc: Client, **options: Any) -> None:
        super().__init__(nc, None, **options)

    def connect(
        self,
        user: str,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        device: Optional[str] = None,
        idle: Optional[bool] = None,
        **named: Any,
    ) -> Connection:
        """Has a user come online, with heartbeats of its own. For many users: ``lease``."""
        encode(user)
        return self._connect(user, user, patch_of(fields, named), device, idle)

    def lease(self, name: str) -> Lease:
        """A lease for many users' connections. The name gets a random end."""
        lease = Lease(self._link, self._calls, name)
        self._leases.add(lease)
        return lease

    async def upsert(self, users: Iterable[Mapping[str, Any]]) -> dict[str, Me]:
        """Makes or changes users, each a mapping with its ``id``; 100 a request."""
        patches = [patch_of(user, {}) for user in users]
        result: dict[str, Me] = {}
        for start in range(0, len(patches), _IDS_A_QUERY):
            body = {"users": patches[start : start + _IDS_A_QUERY]}
            result.update(_own_views(await self._calls.call("upsert_users", body)))
        return result

    async def update(
        self, user: str, fields: Optional[Mapping[str, Any]] = None, **named: Any
    ) -> Me:
        """Changes one user; None as a value removes a field."""
        return (await self.upsert([{**patch_of(fields, named), "id": user}]))[user]

    async def delete(self, ids: Iterable[str]) -> list[str]:
        """Deletes users; returns the ids of those that there were."""
        wanted, deleted = list(ids), []
        for start in range(0, len(wanted), _IDS_A_QUERY):
            body = {"ids": wanted[start : start + _IDS_A_QUERY]}
            deleted += _texts(await self._calls.call("delete_users", body), "deleted")
        return deleted

    async def delete_where(self, filter: Filter) -> list[str]:
        """Deletes all users that match as they truly are."""
        deleted: list[str] = []
        while True:
            answer = await self._calls.call("delete_users", {"filter": filter, "limit": 100})
            deleted += _texts(answer, "deleted")
            if not answer.get("more"):
                return deleted

    async def upsert_channel(
        self,
        type: str,
        id: str,
        data: Optional[Mapping[str, Any]] = None,
        *,
        members: Optional[Sequence[str]] = None,
        add_members: Optional[Sequence[str]] = None,
        remove_members: Optional[Sequence[str]] = None,
    ) -> Channel:
        """Makes or changes a channel."""
        body: dict[str, Any] = {"type": type, "id": id}
        parts = {"members": members, "add_members": add_members, "remove_members": remove_members}
        body.update((name, list(ids)) for name, ids in parts.items() if ids is not None)
        if data is not None:
            body["data"] = patch_of(data, {})
        return parse_channel((await self._calls.call("upsert_channel", body)).get("channel"))

    async def delete_channel(self, type: str, id: str) -> bool:
        answer = await self._calls.call("delete_channel", {"type": type, "id": id})
        return answer.get("deleted") is True

    async def explain(self, user: str) -> dict[str, Any]:
        """Why a user is shown as it is, for people on call."""
        return await self._calls.call("explain", {"user_id": user})


def user(nc: Client, id: str, **options: Any) -> UserClient:
    """A client of one user over the application's NATS connection.

    Options: ``prefix`` and ``events`` of the subjects, and ``audit``, the seconds between two
    checks that events arrive (None: none).
    """
    return UserClient(nc, id, **options)


def service(nc: Client, **options: Any) -> Service:
    """A trusted service over the application's NATS connection; options as those of ``user``."""
    return Service(nc, **options)


def _query_body(
    filter: Optional[Filter], fresh: bool = False, viewer: Optional[str] = None
) -> dict[str, Any]:
    body: dict[str, Any] = {} if viewer is None else {"as": viewer}
    if filter:
        body["filter"] = patch_of(filter, {})
    if fresh:
        body["presence"] = True
    return body


def _channel_body(
    type: str, id: str, data: Optional[Mapping[str, Any]], member_limit: int, online_count: bool
) -> dict[str, Any]:
    body: dict[str, Any] = {"type": type, "id": id, "member_limit": member_limit}
    if data is not None:
        body["data"] = dict(data)
    if online_count:
        body["online_count"] = True
    return body


def _own_views(answer: Mapping[str, Any]) -> dict[str, Me]:
    users = answer.get("users")
    if not isinstance(users, dict):
        raise Malformed("upsert_users without users")
    return {id: parse_me(body) for id, body in users.items()}


def _texts(answer: Mapping[str, Any], name: str) -> list[str]:
    values = answer.get(name)
    return [str(value) for value in values] if isinstance(values, list) else []
