"""User ids, channel ids and lease names as tokens of a subject, and back."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Optional

from .errors import Invalid

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
MAX_BYTES = 255


def id_of(id: Any, field: str = "id", most: int = MAX_BYTES) -> str:
    """An id that an application gave, under this name. Raises Invalid for what is none."""
    if not isinstance(id, str):
        raise Invalid(field, f"an id is a str, not a {type(id).__name__}")
    try:
        size = len(id.encode("utf-8"))
    except UnicodeEncodeError:
        raise Invalid(field, "an id has no half of a surrogate pair") from None
    if not 1 <= size <= most:
        raise Invalid(field, f"an id has 1 to {most} bytes here, not {size}")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in id):
        raise Invalid(field, "an id has no control characters")
    return id


def ids_of(ids: Any, field: str = "ids") -> list[str]:
    """Ids that an application gave; one alone is not several."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise Invalid(field, "several ids are wanted, in a list")
    return [id_of(id, f"{field}[{index}]") for index, id in enumerate(ids)]


def subject_of(subject: Any, field: str) -> str:
    """The beginning of subjects, as the daemons are set to."""
    if not isinstance(subject, str):
        raise Invalid(field, f"a subject is a str, not a {type(subject).__name__}")
    tokens = subject.split(".")
    if not all(token.isprintable() and token and not set(token) & set(" *>") for token in tokens):
        raise Invalid(
            field, f"tokens joined by dots, without blanks and wildcards, not {subject!r}"
        )
    return subject


def encode(id: str) -> str:
    """The token of an id."""
    data = id_of(id).encode("utf-8")
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in data)


def decode(token: str) -> Optional[str]:
    """The id of a token; None where the token is not the canonical form of an id."""
    data = bytearray()
    position = 0
    while position < len(token):
        char = token[position]
        if char == "=":
            digits = token[position + 1 : position + 3]
            if len(digits) != 2 or any(digit not in "0123456789ABCDEF" for digit in digits):
                return None
            data.append(int(digits, 16))
            position += 3
        else:
            if ord(char) > 0x7F:
                return None
            data.append(ord(char))
            position += 1
    try:
        id = data.decode("utf-8")
        return id if encode(id) == token else None
    except ValueError:
        return None


def random_id() -> str:
    """128 random bits as hex: a connection id, or the end of a lease name."""
    return secrets.token_hex(16)
