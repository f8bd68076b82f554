"""``presenced.connect``: a NATS connection with its callbacks wired up."""

from __future__ import annotations

from typing import Any, Optional, Union, overload

import nats

from ._doors import Service, UserClient
from ._link import Link

_CALLBACKS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb")


@overload
async def connect(servers: Union[str, list[str]], *, user: str, **options: Any) -> UserClient: ...
@overload
async def connect(
    servers: Union[str, list[str]], *, user: None = None, **options: Any
) -> Service: ...
async def connect(
    servers: Union[str, list[str]] = "nats://127.0.0.1:4222",
    *,
    user: Optional[str] = None,
    **options: Any,
) -> Union[UserClient, Service]:
    """Connects to NATS; ``async with await presenced.connect(url, user="john") as me``.

    ``options`` are those of ``nats.connect`` (NATS's own ``user`` and ``password`` go into the
    address, or a ``user_credentials`` file) and of ``presenced.user``. The connection reconnects
    without end; ``close`` of the door closes it.
    """
    own = {name: options.pop(name) for name in ("prefix", "events", "audit") if name in options}
    links: list[Link] = []

    def signal(name: str) -> Any:
        given = options.pop(name, None)

        async def callback(*args: Any) -> None:
            for link in links:
                link.observe(args[0] if args else None)
            if given is not None:
                await given(*args)

        return callback

    callbacks = {name: signal(name) for name in _CALLBACKS}
    settings = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.5, "ping_interval": 10}
    nc = await nats.connect(servers, **callbacks, **{**settings, **options})
    door = Service(nc, **own) if user is None else UserClient(nc, user, **own)
    links.append(door.link)
    door.own(nc)
    return door
