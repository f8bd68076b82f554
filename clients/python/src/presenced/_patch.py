"""Changes of a user: what the application set, and what of it is not acknowledged yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional

from .errors import Invalid

Json = dict[str, Any]
# What is an option of some method is a field of none, unless it stands in the mapping.
_OPTIONS = frozenset(("defaults", "device", "idle", "timeout"))
# Beyond them no reader of JSON has a number.
_MAX_BITS = 1024


def patch_of(
    fields: Optional[Mapping[str, Any]], named: Mapping[str, Any], what: str = "fields"
) -> Json:
    """One patch of a mapping and of keywords, as JSON has it."""
    options = _OPTIONS.intersection(named)
    if options:
        name = min(options)
        raise TypeError(f"{name} is no option here; a field of that name goes in the mapping")
    if fields is not None and not isinstance(fields, Mapping):
        raise Invalid(what, f"a mapping, not a {type(fields).__name__}")
    check_names(fields or {}, what)
    return {name: nested(value, name) for name, value in {**(fields or {}), **named}.items()}


def user_patch(
    fields: Optional[Mapping[str, Any]], named: Mapping[str, Any], what: str = "fields"
) -> Json:
    """A patch of a user whose id is named elsewhere."""
    patch = patch_of(fields, named, what)
    if "id" in patch:
        raise Invalid("id", "a user keeps its id, which is no field of a change")
    return patch


def check_names(fields: Mapping[Any, Any], what: str) -> None:
    for name in fields:
        if not isinstance(name, str):
            raise Invalid(what, f"the name {name!r} is no str")


def nested(value: Any, name: str) -> Any:
    """A copy of a value as JSON has it; an error names the place in it."""
    try:
        return plain(value, name)
    except RecursionError:
        raise Invalid(name, "nested too deeply, or in itself") from None


def plain(value: Any, path: str) -> Any:
    """A copy of a value as JSON has it; times become text. An error names the path."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise Invalid(path, "an integer beyond the numbers of JSON")
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(path, f"JSON has no {value}")
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise Invalid(path, "a time needs a time zone")
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        check_names(value, path)
        return {name: plain(item, f"{path}.{name}") for name, item in value.items()}
    raise Invalid(path, f"a {type(value).__name__} has no form in JSON")


def marks_of(**marks: Any) -> Json:
    """The device and the idleness of a connection."""
    kinds = {"device": str, "idle": bool}
    for name, value in marks.items():
        if value is not None and not isinstance(value, kinds[name]):
            raise Invalid(name, f"a {kinds[name].__name__}, not a {type(value).__name__}")
    return marks


def seconds_of(seconds: Any, field: str = "timeout") -> Optional[float]:
    """A time that an application gave; None is without end."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise Invalid(field, f"a number of seconds or None, not a {type(seconds).__name__}")
    if not (0 <= seconds < math.inf):
        raise Invalid(field, f"a number of seconds from 0, not {seconds}; without end is None")
    return seconds


def audit_of(seconds: Any) -> Optional[float]:
    """The time between two audits; None: none."""
    if seconds_of(seconds, "audit") == 0:
        raise Invalid("audit", "a number of seconds above 0; no audit is None")
    return seconds_of(seconds, "audit")


def limit_of(limit: Any, most: Optional[int] = None, field: str = "limit") -> Optional[int]:
    """How many an application wants; None is all."""
    if limit is None and most is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise Invalid(field, f"a whole number, not a {type(limit).__name__}")
    if limit < 0 or (most is not None and not 1 <= limit <= most):
        wanted = "a number from 0" if most is None else f"a number from 1 to {most}"
        raise Invalid(field, f"{wanted}, not {limit}")
    return limit


def merge(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Json:
    """Both patches as one. A new status has its own end or none."""
    merged = dict(older)
    if "status" in newer and "status_expires_at" not in newer:
        merged.pop("status_expires_at", None)
    merged.update(newer)
    return merged
