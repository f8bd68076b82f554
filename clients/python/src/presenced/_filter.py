"""The filter language of the contract, as types.

A mapping passes as it is. Annotated as ``UserFilter``, or as a subclass of it that has the
application's own fields, a type checker holds it against the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Union

Time = Union[str, datetime]

#: Operators of ``id``, ``cid`` and ``type``.
IdCondition = TypedDict(
    "IdCondition",
    {
        "$eq": str,
        "$ne": str,
        "$in": Sequence[str],
        "$nin": Sequence[str],
        "$gt": str,
        "$gte": str,
        "$lt": str,
        "$lte": str,
        "$autocomplete": str,
    },
    total=False,
)
#: Operators of ``online``, ``invisible``.
FlagCondition = TypedDict("FlagCondition", {"$eq": bool, "$ne": bool}, total=False)
#: What custom fields have besides, and ``status``: they may be absent.
_Exists = TypedDict("_Exists", {"$exists": bool}, total=False)


class TextCondition(IdCondition, _Exists, total=False):
    """Operators of ``status`` and of texts among the custom fields."""


class BooleanCondition(FlagCondition, _Exists, total=False):
    """Operators of booleans among the custom fields."""


#: Operators of ``availability``.
ChoiceCondition = TypedDict(
    "ChoiceCondition",
    {"$eq": str, "$ne": str, "$in": Sequence[str], "$nin": Sequence[str]},
    total=False,
)
#: Operators of times.
TimeCondition = TypedDict(
    "TimeCondition",
    {
        "$eq": Time,
        "$ne": Time,
        "$gt": Time,
        "$gte": Time,
        "$lt": Time,
        "$lte": Time,
        "$exists": bool,
    },
    total=False,
)
#: Operators of ``member_count`` and of numbers among the custom fields.
NumberCondition = TypedDict(
    "NumberCondition",
    {
        "$eq": float,
        "$ne": float,
        "$in": Sequence[float],
        "$nin": Sequence[float],
        "$gt": float,
        "$gte": float,
        "$lt": float,
        "$lte": float,
        "$exists": bool,
    },
    total=False,
)
#: Operators of ``devices`` and of arrays among the custom fields.
ArrayCondition = TypedDict(
    "ArrayCondition",
    {
        "$eq": Sequence[Any],
        "$ne": Sequence[Any],
        "$exists": bool,
        "$contains": Any,
        "$in": Sequence[Any],
        "$nin": Sequence[Any],
    },
    total=False,
)
#: Operators of ``members``.
MembersCondition = TypedDict(
    "MembersCondition",
    {"$eq": Sequence[str], "$in": Sequence[str], "$contains": str},
    total=False,
)
_Parts = Sequence[Mapping[str, Any]]
_Common = TypedDict(
    "_Common",
    {
        "id": Union[str, IdCondition],
        "created_at": Union[Time, TimeCondition],
        "updated_at": Union[Time, TimeCondition],
        "$and": _Parts,
        "$or": _Parts,
        "$nor": _Parts,
    },
    total=False,
)


class UserFilter(_Common, total=False):
    """A filter of users; a subclass has the custom fields of an application."""

    online: Union[bool, FlagCondition]
    invisible: Union[bool, FlagCondition]
    availability: Union[str, ChoiceCondition]
    status: Union[str, TextCondition]
    last_active: Union[Time, TimeCondition]
    offline_since: Union[Time, TimeCondition]
    devices: Union[Sequence[str], ArrayCondition]


class ChannelFilter(_Common, total=False):
    """A filter of channels; a subclass has the custom fields of an application."""

    cid: Union[str, IdCondition]
    type: Union[str, IdCondition]
    members: Union[Sequence[str], MembersCondition]
    member_count: Union[float, NumberCondition]
    last_message_at: Union[Time, TimeCondition]


#: ``{"online": True, "team": {"$in": ["red"]}}``: several fields are all required.
Filter = Union[UserFilter, ChannelFilter, Mapping[str, Any]]
#: ``{"last_active": -1}``, or several of them in a list.
Sort = Union[Mapping[str, int], Sequence[Mapping[str, Any]]]
