"""Changes of a user: what the application set, and what of it is not acknowledged yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional

Json = dict[str, Any]


def patch_of(fields: Optional[Mapping[str, Any]], named: Mapping[str, Any]) -> Json:
    """One patch of a mapping and of keywords; times become text."""
    patch = {**(fields or {}), **named}
    return {name: _value(value) for name, value in patch.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time needs a time zone")
        return value.isoformat()
    return value


def merge(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Json:
    """Both patches as one. A new status has its own end or none."""
    merged = dict(older)
    if "status" in newer and "status_expires_at" not in newer:
        merged.pop("status_expires_at", None)
    merged.update(newer)
    return merged


def fields_to_keep(set_before: Mapping[str, Any], me: Optional[Mapping[str, Any]]) -> Json:
    """The fields for a record that has to be made again."""
    result = {name: value for name, value in set_before.items() if value is not None}
    if me is not None:
        for own, name in (("invisible", "invisible"), ("availability_choice", "availability")):
            if own in me:
                result[name] = me[own]
    return result
