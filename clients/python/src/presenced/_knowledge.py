"""What a door knows of one user: all its connections, seats, updates and watches share it.

A user whose record is gone is made again from it, whichever of them set or learnt it last. It
lives as long as one of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from copy import copy
from datetime import datetime
from typing import Any, Optional

from ._model import Me
from ._patch import merge
from ._picture import Asked, question

Json = dict[str, Any]


class Knowledge:
    def __init__(self) -> None:
        #: The user's own view, as the last answer had it that holds all of it.
        self.me: Optional[Me] = None
        self._fields: Json = {}  # In the order of what was acknowledged and answered.
        self._created_at: Optional[datetime] = None
        self._number = 0  # Answers to questions before it are older than this.

    def on_write(self, patch: Mapping[str, Any], me: Optional[Me], *, whole: bool = True) -> None:
        """A request was carried out. ``whole``: the view in its answer has the custom fields."""
        self._fields = merge(self._fields, patch)
        self._number = question().number
        if me is not None:
            self._take(me, whole)

    def on_view(self, me: Me, asked: Asked) -> None:
        """The user's own view in the answer to a question."""
        if asked.number >= self._number:
            self._number = asked.number
            self._take(me, True)

    def _take(self, me: Me, whole: bool) -> None:
        self._created_at = me.created_at
        self._fields["invisible"] = me.invisible
        self._fields["availability"] = me.availability_choice
        if whole:
            self.me = me

    @property
    def to_keep(self) -> Json:
        """The fields for a record that has to be made again."""
        return {name: value for name, value in self._fields.items() if value is not None}

    def lost(self, patch: Mapping[str, Any], me: Optional[Me]) -> Json:
        """The fields by which the user hides, and which a record lacks that this patch has made
        again: an upsert has no defaults. Its two times are one, if another's change is not later.
        """
        is_made = me is not None and me.created_at is not None and me.created_at == me.updated_at
        if me is None or not is_made or me.created_at == self._created_at:
            return {}
        shown = {
            "invisible": me.invisible,
            "availability": me.availability_choice,
            "hide_last_active": me.hide_last_active,
        }
        kept = self.to_keep
        return {
            name: kept[name]
            for name, value in shown.items()
            if name in kept and name not in patch and kept[name] != value
        }

    def apart(self) -> Knowledge:
        """The same, which learns no more, and keeps nothing alive."""
        return copy(self)


class KnownUsers:
    """The users of whom a door has an object."""

    def __init__(self) -> None:
        self._users: weakref.WeakValueDictionary[str, Knowledge] = weakref.WeakValueDictionary()

    def of(self, id: str) -> Knowledge:
        """What is known of a user, for who keeps it from now on."""
        known = self._users.get(id)
        if known is None:
            known = self._users[id] = Knowledge()
        return known

    def get(self, id: str) -> Optional[Knowledge]:
        return self._users.get(id)
