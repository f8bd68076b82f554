"""The door of one user's own client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from nats.aio.client import Client

from ._desired import Desired
from ._door import AUDIT, EVENTS, PREFIX, Door, own_view
from ._model import Me
from ._opening import Opening
from ._patch import user_patch
from ._tokens import id_of
from .connection import Connection
from .errors import about_one_user


class UserClient(Door):
    """The second door: one user's own client, which sees itself as it truly is."""

    def __init__(
        self,
        nc: Client,
        user: str,
        *,
        prefix: str = PREFIX,
        events: str = EVENTS,
        audit: Optional[float] = AUDIT,
    ) -> None:
        super().__init__(nc, id_of(user), prefix, events, audit)
        self.id: str = user
        self._known = self._users.of(user)
        self._hub.on_own = self._known.on_view

    def connect(
        self,
        fields: Optional[Mapping[str, Any]] = None,
        *,
        device: Optional[str] = None,
        idle: Optional[bool] = None,
        defaults: Optional[Mapping[str, Any]] = None,
        **named: Any,
    ) -> Opening[Connection]:
        """Comes online: ``async with me.connect(status="hello") as connection``.

        ``defaults`` are fields that count only if this makes the user.
        """
        desired = Desired(user_patch(fields, named), device, idle, defaults, self._known)
        return self._connect(self.id, None, desired)

    async def update(self, fields: Optional[Mapping[str, Any]] = None, **named: Any) -> Me:
        """Changes the user without being connected; None as a value removes a field."""
        patch = user_patch(fields, named)
        with about_one_user():
            me = own_view(await self._write_users([(self.id, patch)]), self.id)
        self._take_me(me)
        return me


def user(
    nc: Client,
    id: str,
    *,
    prefix: str = PREFIX,
    events: str = EVENTS,
    audit: Optional[float] = AUDIT,
) -> UserClient:
    """A client of one user over the application's NATS connection.

    ``prefix`` and ``events`` are those of the daemons' subjects; ``audit`` is the seconds between
    two checks that events arrive (None: none).
    """
    return UserClient(nc, id, prefix=prefix, events=events, audit=audit)
