"""Changes of a user: what the application set, and what of it is not acknowledged yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional

Json = dict[str, Any]
# What is an option of some method is a field of none, unless it stands in the mapping.
_OPTIONS = frozenset(("defaults", "device", "idle", "timeout"))


def patch_of(fields: Optional[Mapping[str, Any]], named: Mapping[str, Any]) -> Json:
    """One patch of a mapping and of keywords, as JSON has it."""
    options = _OPTIONS.intersection(named)
    if options:
        name = min(options)
        raise TypeError(f"{name} is no option here; a field of that name goes in the mapping")
    return {name: plain(value, name) for name, value in {**(fields or {}), **named}.items()}


def plain(value: Any, path: str) -> Any:
    """A copy of a value as JSON has it; times become text. An error names the path."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path}: JSON has no {value}")
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{path}: a time needs a time zone")
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{path}: the name {name!r} is no str")
        return {name: plain(item, f"{path}.{name}") for name, item in value.items()}
    raise TypeError(f"{path}: a {type(value).__name__} has no form in JSON")


def marks_of(**marks: Any) -> Json:
    """The device and the idleness of a connection."""
    kinds = {"device": str, "idle": bool}
    for name, value in marks.items():
        if value is not None and not isinstance(value, kinds[name]):
            raise TypeError(f"{name}: a {kinds[name].__name__}, not a {type(value).__name__}")
    return marks


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
