"""Users, channels and changes as the application sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal, Optional, Union

from ._fields import Fields
from .errors import Malformed, PresenceError

Json = dict[str, Any]


class _Text(str, Enum):
    def __str__(self) -> str:
        return str(self.value)


class ConnectionState(_Text):
    """The state of a connection or a lease between its first request and its end."""

    CONNECTING = "connecting"
    ONLINE = "online"
    INTERRUPTED = "interrupted"
    CLOSED = "closed"


class WatchState(_Text):
    """Whether a picture is complete and fresh."""

    LOADING = "loading"
    LIVE = "live"
    STALE = "stale"
    DENIED = "denied"
    CLOSED = "closed"


@dataclass(frozen=True)
class User:
    """A user as others see it. ``fields`` holds the custom fields."""

    id: str
    online: bool = False
    status: Optional[str] = None
    last_active: Optional[datetime] = None
    offline_since: Optional[datetime] = None
    availability: str = "offline"
    devices: tuple[str, ...] = ()
    status_expires_at: Optional[datetime] = None
    created_at: Optional[datetime] = None
    updated_at: Optional[datetime] = None
    version: int = 0
    fields: Mapping[str, Any] = field(default_factory=Fields, hash=False)


@dataclass(frozen=True)
class Me(User):
    """A user as it sees itself."""

    invisible: bool = False
    availability_choice: str = "auto"
    hide_last_active: bool = False


@dataclass(frozen=True)
class Channel:
    """A channel; ``fields`` holds its custom fields, ``members`` those that were returned."""

    type: str
    id: str
    member_count: int = 0
    members: tuple[User, ...] = ()
    online_count: Optional[int] = None
    last_message_at: Optional[datetime] = None
    created_at: Optional[datetime] = None
    updated_at: Optional[datetime] = None
    fields: Mapping[str, Any] = field(default_factory=Fields, hash=False)

    @property
    def cid(self) -> str:
        return f"{self.type}:{self.id}"


@dataclass(frozen=True)
class UserChange:
    """A user came (online), left (offline), or has another ``status`` or other ``fields``.

    ``fields`` is any other difference, of the availability and the devices, too. ``before`` is
    the user as it was; None: there was none of that id.
    """

    kind: Literal["came", "left", "status", "fields"]
    state: WatchState
    id: str
    user: User
    before: Optional[User]


@dataclass(frozen=True)
class UserGone:
    """A user was deleted, was not made yet, or is no longer found by the watch."""

    kind: Literal["gone"]
    state: WatchState
    id: str
    user: None
    before: Optional[User]


@dataclass(frozen=True)
class StateChange:
    """The watch itself changed its state."""

    state: WatchState
    kind: Literal["state"] = "state"
    id: None = None
    user: None = None
    before: None = None


#: One step of a watch. A type checker knows by its ``kind`` what it has.
Change = Union[UserChange, UserGone, StateChange]
ChangeKind = Literal["came", "left", "status", "fields", "gone", "state"]


@dataclass(frozen=True)
class ConnectionChange:
    """A step of the state of a connection, a lease or a seat.

    ``relapsed``: the daemons had ended it, and it was made again. ``recreated``: the user's record
    is a new one (the user was deleted in between).
    """

    state: ConnectionState
    since: datetime
    error: Optional[PresenceError] = None
    relapsed: bool = False
    recreated: bool = False


def now() -> datetime:
    return datetime.now(timezone.utc)


def parse_time(value: Any) -> Optional[datetime]:
    if not isinstance(value, str):
        return None
    text = value[:-1] + "+00:00" if value[-1:] in "Zz" else value
    head, dot, tail = text.partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[:digits][:6].ljust(6, '0')}{tail[digits:]}"
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


_TIMES = ("last_active", "offline_since", "status_expires_at", "created_at", "updated_at")
_USER = frozenset((*_TIMES, "id", "online", "status", "availability", "devices", "version"))
#: What JSON holds exactly everywhere.
_NEWEST = 2**53 - 1
_OWN = frozenset(("invisible", "availability_choice", "hide_last_active"))
_CHANNEL_TIMES = ("last_message_at", "created_at", "updated_at")
_CHANNEL = frozenset(
    (*_CHANNEL_TIMES, "type", "id", "cid", "members", "member_count", "online_count")
) | {"presence", "presence_disabled", "occupancy_subject"}


def parse_user(body: Any) -> User:
    """A user of an answer or an event; raises Malformed. Other versions are tolerated."""
    try:
        own = "invisible" in body
        online = body["online"] is True
        known: Json = {name: parse_time(body.get(name)) for name in _TIMES}
        known.update(
            id=_text(body["id"]),
            online=online,
            status=_optional_text(body.get("status")),
            availability=str(body.get("availability", "active" if online else "offline")),
            devices=tuple(str(device) for device in body.get("devices") or ()),
            version=_version(body.get("version", 0)),
            fields=Fields(
                (name, value)
                for name, value in body.items()
                if name not in _USER and not (own and name in _OWN)
            ),
        )
        if not own:
            return User(**known)
        return Me(
            **known,
            invisible=body["invisible"] is True,
            availability_choice=str(body.get("availability_choice", "auto")),
            hide_last_active=body.get("hide_last_active") is True,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"not a user: {error!r}") from error


def parse_users(answer: Mapping[str, Any]) -> list[User]:
    """The users of an answer of ``query_users``."""
    users = answer.get("users")
    if not isinstance(users, list):
        raise Malformed("an answer without users")
    return [parse_user(user) for user in users]


def parse_channels(answer: Mapping[str, Any]) -> list[Channel]:
    """The channels of an answer of ``query_channels``."""
    channels = answer.get("channels")
    if not isinstance(channels, list):
        raise Malformed("an answer without channels")
    return [parse_channel(channel) for channel in channels]


def parse_me(body: Any) -> Me:
    user = parse_user(body)
    if not isinstance(user, Me):
        raise Malformed("the user's own view lacks invisible")
    return user


def parse_channel(body: Any) -> Channel:
    try:
        return Channel(
            type=_text(body["type"]),
            id=_text(body["id"]),
            member_count=int(body.get("member_count", 0)),
            members=tuple(parse_user(member["user"]) for member in body.get("members", ())),
            online_count=body.get("online_count"),
            last_message_at=parse_time(body.get("last_message_at")),
            created_at=parse_time(body.get("created_at")),
            updated_at=parse_time(body.get("updated_at")),
            fields=Fields(item for item in body.items() if item[0] not in _CHANNEL),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"not a channel: {error!r}") from error


def change_of(state: WatchState, id: str, before: Optional[User], user: Optional[User]) -> Change:
    """The step from one state of a user to the next, as people call it."""
    if user is None:
        return UserGone("gone", state, id, user, before)
    was_online = before is not None and before.online
    if user.online != was_online:
        return UserChange("came" if user.online else "left", state, id, user, before)
    same_status = user.status == (before.status if before else None)
    return UserChange("fields" if same_status else "status", state, id, user, before)


def _version(value: Any) -> int:
    """A version: one that no daemon writes would hide all that come after it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _NEWEST:
        raise ValueError(f"{value!r} is no version")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _optional_text(value: Any) -> Optional[str]:
    return None if value is None else _text(value)


def parse_event(data: bytes, id: str) -> Optional[User]:
    """The user of an event on the subject of a user; None for anything else that comes there."""
    try:
        body = json.loads(data)
        user = body["user"]
        valid = (
            body["type"] == "user.presence.changed"
            and user["id"] == id
            and isinstance(user["online"], bool)
            and "version" in user
        )
        return parse_user(user) if valid else None
    except (ValueError, KeyError, TypeError, RecursionError, Malformed):
        return None
