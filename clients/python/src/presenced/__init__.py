"""The client of presenced: who is online, over NATS.

>>> async with presenced.user(nc, "john") as me:
...     async with me.connect(status="hello"), me.watch(["jack"]) as watch:
...         print(watch["jack"])
"""

from ._channel_watch import ChannelWatch
from ._connect import connect
from ._everyone_watch import EveryoneWatch
from ._filter import (
    ArrayCondition,
    BooleanCondition,
    ChannelFilter,
    ChoiceCondition,
    Filter,
    FlagCondition,
    IdCondition,
    MembersCondition,
    NumberCondition,
    Sort,
    TextCondition,
    TimeCondition,
    UserFilter,
)
from ._hub_watch import UserWatch
from ._matching_watch import MatchingWatch
from ._model import (
    Change,
    ChangeKind,
    Channel,
    ConnectionChange,
    ConnectionState,
    Me,
    StateChange,
    User,
    UserChange,
    UserGone,
    WatchState,
)
from ._opening import Opening
from ._query import ChannelQuery, UserQuery
from ._service import Service, service
from ._user_client import UserClient, user
from .connection import Connection
from .errors import (
    Busy,
    Closed,
    Denied,
    Disconnected,
    Invalid,
    Malformed,
    NoAnswer,
    NoDaemon,
    PresenceError,
    Refused,
)
from .lease import Lease
from .seat import Seat
from .watch import Watch

__all__ = [
    "ArrayCondition",
    "BooleanCondition",
    "Busy",
    "Change",
    "ChangeKind",
    "Channel",
    "ChannelFilter",
    "ChannelQuery",
    "ChannelWatch",
    "ChoiceCondition",
    "Closed",
    "Connection",
    "ConnectionChange",
    "ConnectionState",
    "Denied",
    "Disconnected",
    "EveryoneWatch",
    "Filter",
    "FlagCondition",
    "IdCondition",
    "Invalid",
    "Lease",
    "Malformed",
    "MatchingWatch",
    "Me",
    "MembersCondition",
    "NoAnswer",
    "NoDaemon",
    "NumberCondition",
    "Opening",
    "PresenceError",
    "Refused",
    "Seat",
    "Service",
    "Sort",
    "StateChange",
    "TextCondition",
    "TimeCondition",
    "User",
    "UserChange",
    "UserClient",
    "UserFilter",
    "UserGone",
    "UserQuery",
    "UserWatch",
    "Watch",
    "WatchState",
    "connect",
    "service",
    "user",
]
