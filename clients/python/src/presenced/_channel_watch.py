"""Watches of the members of a channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

from ._calls import Calls, Json, chunks, is_too_large
from ._hub import Hub
from ._hub_watch import HubWatch
from ._model import Channel, User, parse_channel
from ._tokens import ids_of
from .errors import Busy, Denied, Invalid, Refused

_PER_CALL = 10


class ChannelWatch(HubWatch):
    """A watch of the members of a channel. ``channel`` is the channel as it was answered last.

    The contract lets 10 members be watched in one call: ``users="first"`` takes the first ten in
    order of joining, a list names members, ``"all"`` pages through all that are returned.
    Where ``member_limit`` members are too many for one answer, fewer are returned; ``truncated``
    says so. A member who leaves is None from the next resync on. The watch closes, with
    ``last_error``, when the channel is deleted or the login's user is a member no longer.
    """

    def __init__(
        self,
        hub: Hub,
        calls: Calls,
        body: Mapping[str, Any],
        users: Union[str, Iterable[str]],
    ) -> None:
        super().__init__(hub, self._ask_channel)
        self._calls = calls
        self._body = dict(body)
        self._users = users if isinstance(users, str) else ids_of(users, "users")
        if isinstance(self._users, str) and self._users not in ("first", "all"):
            raise Invalid("users", '"first", "all" or a list of ids')
        self.channel: Optional[Channel] = None
        #: Members that are not watched, and whether there are any.
        self.not_watched: tuple[str, ...] = ()
        self.truncated: bool = False

    async def _begin(self) -> None:
        ids = None if isinstance(self._users, str) else self._users[:_PER_CALL]
        channel, block = await self._fetch(ids)
        watched = list(block.get("users", ()))
        rest = list(block.get("not_watched", ()))
        if not isinstance(self._users, str):
            watched, rest = self._users, []
        elif self._users == "all":
            watched, rest = watched + rest, []
        self.not_watched = tuple(rest)
        self.truncated = block.get("truncated") is True and channel.member_count > len(watched)
        self._complete = True
        self._add(watched)

    async def _fetch(self, ids: Optional[list[str]]) -> tuple[Channel, Json]:
        """The channel and its presence block; fewer members where their answer is too large."""
        body = {**self._body, "presence": True}
        if ids is not None:
            body["users"] = ids
        try:
            answer = await self._calls.call("watch_channel", body)
        except Refused as error:
            if error.field != "member_limit" or not is_too_large(error, body["member_limit"]):
                raise
            self._body["member_limit"] //= 2
            return await self._fetch(ids)
        self.channel = parse_channel(answer.get("channel"))
        self._body.pop("data", None)  # It makes the channel, once.
        return self.channel, answer.get("presence") or {}

    async def _check_exists(self) -> None:
        """Asks in a way that makes no channel, as ``watch_channel`` would."""
        cid = f"{self._body['type']}:{self._body['id']}"
        body = {"filter": {"cid": cid}, "limit": 1, "member_limit": 1, "presence": True}
        try:
            answer = await self._calls.call("query_channels", body)
        except Denied:
            exists = await self._has_members()
        else:
            exists = bool(answer.get("channels"))
        if not exists:
            raise Refused(f"there is no channel {cid} any more", code="channel_not_found")

    async def _has_members(self) -> bool:
        """Whether there is the channel, for a login that may watch channels and not look for them.

        Where members are named a channel is not made: nobody is one, which is refused. The door's
        own user would be, where it may make channels.
        """
        others = [id for id in self._watched if id != self._hub.own]
        for chunk in chunks(others, _PER_CALL):
            if await self._members_of(list(chunk)):
                return True
        return not others

    async def _members(self, ids: Optional[list[str]]) -> tuple[set[str], dict[str, User]]:
        """The members whose presence is answered, and all that are returned."""
        channel, block = await self._fetch(ids)
        return set(block.get("users", ())), {user.id: user for user in channel.members}

    async def _ask_channel(self, ids: Sequence[str]) -> Mapping[str, Optional[User]]:
        """Members by ``watch_channel``, ten a call; who is a member no longer is absent."""
        await self._check_exists()
        first, members = await self._members(None)
        found: dict[str, Optional[User]]
        found = {id: members[id] for id in ids if id in first and id in members}
        for chunk in chunks([id for id in ids if id not in first and id in members], _PER_CALL):
            try:
                _, again = await self._members(list(chunk))
            except Refused as error:
                if error.field != "users":
                    raise
                raise Busy("members left meanwhile", code="contended") from error
            found.update((id, again[id]) for id in chunk if id in again)
        if self.channel is not None and self.channel.member_count > len(members):
            found.update(await self._ask_beyond([id for id in ids if id not in members]))
        return found

    async def _ask_beyond(self, ids: Sequence[str]) -> Mapping[str, Optional[User]]:
        """Members whom the answer does not reach are asked for as any user is, if that is allowed;
        without the permission nothing is known of them until an event comes."""
        members: list[str] = []
        for chunk in chunks(ids, _PER_CALL):
            members += await self._members_of(list(chunk))
        try:
            users = await self._hub.ask_users(members) if members else {}
        except Denied:
            return dict.fromkeys(members)
        return {id: users.get(id, User(id)) for id in members}

    async def _members_of(self, ids: list[str]) -> list[str]:
        """Those of the ids who are members."""
        try:
            await self._fetch(ids)
        except Refused as error:
            if error.field != "users":
                raise
            if len(ids) == 1:
                return []
            half = len(ids) // 2
            return [*await self._members_of(ids[:half]), *await self._members_of(ids[half:])]
        return ids
