"""``presenced.connect``: a NATS connection with its callbacks wired up."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable
from typing import Any, Callable, Optional, TypeVar, Union, overload

from ._door import AUDIT, EVENTS, PREFIX, Door, check_options
from ._nats import Client, open_nats
from ._opening import Opening
from ._pace import CALL_TIMEOUT
from ._patch import seconds_of
from ._service import Service
from ._tokens import id_of
from ._user_client import UserClient

log = logging.getLogger("presenced")

_CALLBACKS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb")

Servers = Union[str, list[str]]
D = TypeVar("D", bound=Door)


@overload
def connect(
    servers: Optional[Servers] = ...,
    *,
    user: str,
    prefix: str = ...,
    events: str = ...,
    audit: Optional[float] = ...,
    timeout: Optional[float] = ...,
    **options: Any,
) -> Opening[UserClient]: ...
@overload
def connect(
    servers: Optional[Servers] = ...,
    *,
    user: None = None,
    prefix: str = ...,
    events: str = ...,
    audit: Optional[float] = ...,
    timeout: Optional[float] = ...,
    **options: Any,
) -> Opening[Service]: ...
def connect(
    servers: Optional[Servers] = None,
    *,
    user: Optional[str] = None,
    prefix: str = PREFIX,
    events: str = EVENTS,
    audit: Optional[float] = AUDIT,
    timeout: Optional[float] = CALL_TIMEOUT,
    **options: Any,
) -> Union[Opening[UserClient], Opening[Service]]:
    """Connects to NATS: ``async with presenced.connect(url, user="john") as me``.

    Without ``servers`` it is the environment's ``NATS_URL``, else ``nats://127.0.0.1:4222``;
    without ``user`` a trusted service. ``prefix``, ``events`` and ``audit`` are those of
    ``presenced.user``, the other options those of ``nats.connect`` (NATS's own ``user`` and
    ``password`` go into the address, or a ``user_credentials`` file). Where there is no connection
    in time (``timeout`` None: tried without end), ``Disconnected`` says why, or ``Denied`` that the
    login is refused. Once made it reconnects without end, and is closed with the client. Its errors
    are logged, if there is no ``error_cb``.
    """
    seconds_of(timeout)
    check_options(prefix, events, audit)
    servers = servers or os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    if user is None:

        def serve(nc: Client) -> Service:
            return Service(nc, prefix=prefix, events=events, audit=audit)

        return Opening(_open(servers, options, timeout, serve))
    id = id_of(user, "user")

    def act(nc: Client) -> UserClient:
        return UserClient(nc, id, prefix=prefix, events=events, audit=audit)

    return Opening(_open(servers, options, timeout, act))


class _ErrorLog:
    """The ``error_cb`` of who gives none: logs each error once, until the connection is back."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    async def on_error(self, error: Exception) -> None:
        text = str(error) or repr(error)
        if text not in self._logged:
            self._logged.add(text)
            log.warning("NATS: %s", text)

    async def on_reconnected(self) -> None:
        self._logged.clear()


async def _open(
    servers: Servers,
    options: dict[str, Any],
    timeout: Optional[float],
    make: Callable[[Client], D],
) -> D:
    doors: list[D] = []
    errors = _ErrorLog()
    own: dict[str, Callable[..., Awaitable[None]]] = {"reconnected_cb": errors.on_reconnected}
    if options.get("error_cb") is None:
        own["error_cb"] = errors.on_error

    def signal(name: str) -> Callable[..., Awaitable[None]]:
        callbacks = [each for each in (own.get(name), options.get(name)) if each]

        async def callback(*args: Any) -> None:
            for door in doors:
                door.observe(*args)
            for each in callbacks:
                await each(*args)

        return callback

    callbacks = {name: signal(name) for name in _CALLBACKS}
    defaults = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.5, "ping_interval": 10}
    nc = await open_nats(servers, {**defaults, **options, **callbacks}, timeout)
    try:
        door = make(nc)
    except BaseException:
        await nc.close()
        raise
    door._owned = nc
    doors.append(door)
    return door
