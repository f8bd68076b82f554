"""Custom fields, which all who watch a user share."""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(*arguments: Any, **named: Any) -> NoReturn:
    raise TypeError("the fields of a user or channel do not change; ask for an update")


class Fields(dict[str, Any]):
    """A mapping that does not change. A dict, so that ``json`` and ``dataclasses.asdict`` take it,
    which refuse a ``MappingProxyType``, as ``copy`` and ``pickle`` do.
    """

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Fields, (dict(self),)
