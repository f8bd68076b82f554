"""The client of presenced: who is online, over NATS.

>>> async with presenced.user(nc, "john") as me:
...     async with me.connect(status="hello"), me.watch(["jack"]) as watch:
...         print(watch["jack"])
"""

from ._connect import connect
from ._doors import Service, UserClient, service, user
from ._model import Change, Channel, ConnectionState, Me, Status, User, WatchState
from ._query import ChannelQuery, Filter, Sort, UserQuery
from .connection import Connection
from .errors import (
    Busy,
    Closed,
    Denied,
    Disconnected,
    Malformed,
    NoAnswer,
    NoDaemon,
    PresenceError,
    Refused,
)
from .lease import Lease, Seat
from .watch import ChannelWatch, Watch

__all__ = [
    "Busy",
    "Change",
    "Channel",
    "ChannelQuery",
    "ChannelWatch",
    "Closed",
    "Connection",
    "ConnectionState",
    "Denied",
    "Disconnected",
    "Filter",
    "Lease",
    "Malformed",
    "Me",
    "NoAnswer",
    "NoDaemon",
    "PresenceError",
    "Refused",
    "Seat",
    "Service",
    "Sort",
    "Status",
    "User",
    "UserClient",
    "UserQuery",
    "Watch",
    "WatchState",
    "connect",
    "service",
    "user",
]
