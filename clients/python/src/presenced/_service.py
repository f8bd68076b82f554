"""The door of trusted services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from nats.aio.client import Client

from ._calls import Json, chunks, is_too_large
from ._desired import Desired
from ._door import AUDIT, EVENTS, IDS_A_QUERY, PREFIX, Door, own_view
from ._everyone_watch import EveryoneWatch
from ._filter import Filter
from ._model import Channel, Me, parse_channel
from ._opening import Opening
from ._patch import patch_of, user_patch
from ._query import query_body
from ._tokens import id_of, ids_of
from .connection import Connection
from .errors import Invalid, Malformed, Refused, about_one_user
from .lease import Lease


class Service(Door):
    """The first door: a trusted service, which acts for any user."""

    def __init__(
        self,
        nc: Client,
        *,
        prefix: str = PREFIX,
        events: str = EVENTS,
        audit: Optional[float] = AUDIT,
    ) -> None:
        super().__init__(nc, None, prefix, events, audit)

    def connect(
        self,
        user: str,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        device: Optional[str] = None,
        idle: Optional[bool] = None,
        defaults: Optional[Mapping[str, Any]] = None,
        **named: Any,
    ) -> Opening[Connection]:
        """Has a user come online, with heartbeats of its own. For many users: ``lease``."""
        id_of(user, "user")
        desired = Desired(user_patch(fields, named), device, idle, defaults, self._users.of(user))
        return self._connect(user, user, desired)

    def lease(self, name: str) -> Opening[Lease]:
        """A lease for many users' connections. The name gets a random end."""
        leases = self._leases
        lease = Lease(self._link, self._calls, self._users, name, leases.add, leases.discard)
        return Opening(lease._open())

    def watch_all(self) -> Opening[EveryoneWatch]:
        """Watches all users. Needs the permission to subscribe to the events of all."""
        return self._opening(EveryoneWatch(self._link, self._calls, self._hub))

    async def upsert(self, users: Iterable[Mapping[str, Any]]) -> dict[str, Me]:
        """Makes or changes users, each a mapping with its ``id``; 100 a request."""
        if isinstance(users, (str, Mapping)):
            raise Invalid("users", "several users are wanted, in a list")
        patches = [_user_of(user, f"users[{index}]") for index, user in enumerate(users)]
        result: dict[str, Me] = {}
        for chunk in chunks(patches, IDS_A_QUERY):
            result.update(await self._upsert(chunk))
        return result

    async def _upsert(self, patches: Sequence[tuple[str, Json]]) -> dict[str, Me]:
        """One request; two halves where its answer is too large, which names all users."""
        try:
            return await self._write_users(patches)
        except Refused as error:
            # The client itself finds a request that is too large, and names no field.
            if error.field not in ("users", None) or not is_too_large(error, len(patches)):
                raise
            half = len(patches) // 2
            return {**await self._upsert(patches[:half]), **await self._upsert(patches[half:])}

    async def update(
        self, user: str, fields: Optional[Mapping[str, Any]] = None, **named: Any
    ) -> Me:
        """Changes one user; None as a value removes a field."""
        patch = user_patch(fields, named)
        with about_one_user():
            return own_view(await self._upsert([(id_of(user, "user"), patch)]), user)

    async def delete(self, ids: Iterable[str]) -> list[str]:
        """Deletes users; returns the ids of those that there were."""
        deleted: list[str] = []
        for chunk in chunks(ids_of(ids), IDS_A_QUERY):
            deleted += _deleted(await self._calls.call("delete_users", {"ids": chunk}))
        return deleted

    async def delete_where(self, filter: Filter) -> list[str]:
        """Deletes all users that match as they truly are."""
        deleted: list[str] = []
        while True:
            body = query_body(filter, limit=IDS_A_QUERY)
            answer = await self._calls.call("delete_users", body)
            ids = _deleted(answer)
            deleted += ids
            if not answer.get("more"):
                return deleted
            if not ids:
                raise Malformed("delete_users has more to delete, and deletes none")

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
        body: dict[str, Any] = {"type": id_of(type, "type"), "id": id_of(id)}
        parts = {"members": members, "add_members": add_members, "remove_members": remove_members}
        body.update((name, ids_of(ids, name)) for name, ids in parts.items() if ids is not None)
        if data is not None:
            body["data"] = patch_of(data, {}, "data")
        return parse_channel((await self._calls.call("upsert_channel", body)).get("channel"))

    async def delete_channel(self, type: str, id: str) -> bool:
        """Deletes a channel; False where there was none."""
        body = {"type": id_of(type, "type"), "id": id_of(id)}
        answer = await self._calls.call("delete_channel", body)
        return answer.get("deleted") is True

    async def explain(self, user: str) -> dict[str, Any]:
        """The reason why a user is shown as it is, for people on call."""
        return await self._calls.call("explain", {"user_id": id_of(user, "user")})


def service(
    nc: Client,
    *,
    prefix: str = PREFIX,
    events: str = EVENTS,
    audit: Optional[float] = AUDIT,
) -> Service:
    """A trusted service over the application's NATS connection; options as those of ``user``."""
    return Service(nc, prefix=prefix, events=events, audit=audit)


def _user_of(user: Any, field: str) -> tuple[str, Json]:
    id = id_of(user.get("id"), f"{field}.id") if isinstance(user, Mapping) else ""
    patch = patch_of(user, {}, field)
    del patch["id"]
    return id, patch


def _deleted(answer: Mapping[str, Any]) -> list[str]:
    ids = answer.get("deleted")
    if not isinstance(ids, list):
        raise Malformed("delete_users without the deleted")
    return [str(id) for id in ids]
