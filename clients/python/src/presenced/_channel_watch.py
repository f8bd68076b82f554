"""Watches of the members of a channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

from ._calls import Calls, chunks
from ._hub import Hub
from ._hub_watch import HubWatch
from ._model import Channel, User, parse_channel
from ._tokens import ids_of
from .errors import Busy, Denied, Refused

_PER_CALL = 10


class ChannelWatch(HubWatch):
    """A watch of the members of a channel. ``channel`` is the channel as it was answered last.

    The contract lets 10 members be watched in one call: ``users="first"`` takes the first ten in
    order of joining, a list names members, ``"all"`` pages through all that are returned.
    A member who leaves is None from the next resync on. The watch closes, with ``last_error``, when
    the channel is deleted or the login's user is a member no longer.
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
        self._users = users if isinstance(users, str) else ids_of(users)
        if isinstance(self._users, str) and self._users not in ("first", "all"):
            raise ValueError('users is "first", "all" or a list of ids')
        self.channel: Optional[Channel] = None
        #: Members that are not watched, and whether there are any.
        self.not_watched: tuple[str, ...] = ()
        self.truncated: bool = False

    async def _begin(self) -> None:
        ids = None if isinstance(self._users, str) else self._users[:_PER_CALL]
        block = (await self._fetch(ids)).get("presence") or {}
        watched = list(block.get("users", ()))
        rest = list(block.get("not_watched", ()))
        if not isinstance(self._users, str):
            watched, rest = self._users, []
        elif self._users == "all":
            watched, rest = watched + rest, []
        self.not_watched = tuple(rest)
        channel = self.channel
        members = channel.members if channel is not None else ()
        self.truncated = bool(rest) or (channel is not None and channel.member_count > len(members))
        self._complete = True
        self._add(watched)

    async def _fetch(self, ids: Optional[list[str]]) -> dict[str, Any]:
        body = {**self._body, "presence": True}
        if ids is not None:
            body["users"] = ids
        answer = await self._calls.call("watch_channel", body)
        self.channel = parse_channel(answer.get("channel"))
        self._body.pop("data", None)  # It makes the channel, once.
        return answer

    async def _check_exists(self) -> None:
        """Asks in a way that makes no channel, as ``watch_channel`` would."""
        cid = f"{self._body['type']}:{self._body['id']}"
        body = {"filter": {"cid": cid}, "limit": 1, "member_limit": 1, "presence": True}
        try:
            answer = await self._calls.call("query_channels", body)
        except Denied:
            return  # A login that may watch channels, and not look for them.
        if not answer.get("channels"):
            raise Refused(f"there is no channel {cid} any more", code="channel_not_found")

    async def _members(self, ids: Optional[list[str]]) -> tuple[set[str], dict[str, User]]:
        """The members whose presence is answered, and all that are returned."""
        answer = await self._fetch(ids)
        members = {user.id: user for user in self.channel.members} if self.channel else {}
        return set((answer.get("presence") or {}).get("users", ())), members

    async def _ask_channel(self, ids: Sequence[str]) -> dict[str, User]:
        """Members by ``watch_channel``, ten a call; who is a member no longer is absent."""
        await self._check_exists()
        first, members = await self._members(None)
        found = {id: members[id] for id in ids if id in first and id in members}
        for chunk in chunks([id for id in ids if id not in first and id in members], _PER_CALL):
            try:
                _, again = await self._members(list(chunk))
            except Refused as error:
                if error.field != "users":
                    raise
                raise Busy("members left meanwhile", code="contended") from error
            found.update((id, again[id]) for id in chunk if id in again)
        return found
