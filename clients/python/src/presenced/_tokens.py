"""User ids, channel ids and lease names as tokens of a subject, and back."""

from __future__ import annotations

import secrets
from typing import Optional

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_MAX_BYTES = 255


def encode(id: str) -> str:
    """The token of an id. Raises ValueError for a text that is no id."""
    data = id.encode("utf-8", "strict")
    if not 1 <= len(data) <= _MAX_BYTES:
        raise ValueError(f"an id has 1 to {_MAX_BYTES} bytes, not {len(data)}")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in id):
        raise ValueError("an id has no control characters")
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
