"""Watches of all users: one subscription, and the picture page by page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Optional

from ._audit import SETTLE, audit_pause
from ._calls import Calls, is_too_large
from ._hub import Hub
from ._link import Link
from ._model import User, WatchState, parse_event, parse_users
from ._nats import Msg, Subscription
from ._pace import wait_set
from ._picture import Asked, Entry, Step
from ._rounds import Rounds
from ._tokens import decode
from .errors import Denied, PresenceError, Refused
from .watch import UNKNOWN, Watch

log = logging.getLogger("presenced")

_PAGE = 100


class EveryoneWatch(Watch):
    """A watch of all users: made by ``watch_all``. Who is deleted is None in the mapping.

    It needs the permission to subscribe to the events of all.
    """

    def __init__(self, link: Link, calls: Calls, hub: Hub) -> None:
        super().__init__()
        self._link = link
        self._calls = calls
        self._hub = hub
        self._entries: dict[str, Entry] = {}
        self._sub: Optional[Subscription] = None
        self._is_clean = True  # Whether no page of the round has found a missing event.
        self._audited: Optional[str] = None  # The last id of the last page that was audited.
        self._rounds = Rounds(link, self, self._ask, self._rest, self._unsubscribe)

    def _ids(self) -> Iterator[str]:
        return iter(self._entries)

    def _find(self, id: str) -> Any:
        entry = self._entries.get(id)
        return entry.user if entry is not None and entry.known else UNKNOWN

    def _has_left(self, id: str) -> bool:
        return id not in self._entries

    async def _begin(self) -> None:
        self._hub.takers.append(self._take_found)
        self._rounds.start()

    # -- what its task does

    async def _ask(self) -> None:
        await self._subscribe()
        await self._list()
        if not self._rounds.due.is_set():
            self._set(WatchState.LIVE)

    async def _subscribe(self) -> None:
        if not self._link.holds(self._sub):
            subject = f"{self._hub.events}.*"
            self._sub = (await self._link.subscribe([subject], self._on_message))[subject]
            if self._sub is None:
                raise Denied(f"NATS refuses the subscription to {subject}", subject=subject)

    async def _unsubscribe(self) -> None:
        if self._sub is not None:
            await self._link.unsubscribe(self._sub)

    async def _list(self) -> None:
        """Asks for all users; who is in no page is absent."""
        gone = {id for id, entry in self._entries.items() if entry.user is None}
        asked = {id: entry.ask() for id, entry in self._entries.items()}
        found: set[str] = set()
        last: Optional[str] = None
        while True:
            users, more = await self._page(last)
            for user in users:
                found.add(user.id)
                self._take_answer(user.id, user, asked.get(user.id))
            if not users or not more:
                break
            last = users[-1].id
        for id in asked.keys() - found:
            self._take_answer(id, None, asked[id])
        # The version of a deleted user counts until a whole list was asked for after that.
        for id in gone:
            if id in self._entries and self._entries[id].user is None:
                del self._entries[id]
                if id not in self._pending:  # Else the reader is yet to be told.
                    self._shown.pop(id, None)

    async def _page(
        self, last: Optional[str], size: Optional[int] = None
    ) -> tuple[list[User], bool]:
        """The users behind one; fewer where their answer is too large."""
        size = size or _PAGE
        body: dict[str, Any] = {"limit": size, "presence": True}
        if last is not None:
            body["filter"] = {"id": {"$gt": last}}
        try:
            answer = await self._calls.call("query_users", body)
        except Refused as error:
            if not is_too_large(error, size):
                raise
            return await self._page(last, size // 2)
        return parse_users(answer), answer.get("more", True) is True

    async def _rest(self) -> None:
        """Until all is to be asked for again; audits in between."""
        while not await wait_set(self._rounds.due, audit_pause(self._hub.audit.every)):
            if await self._audit():
                self._rounds.doubt()

    async def _audit(self) -> bool:
        """Asks for the next page; True if it was newer than events that should have come."""
        begin = self._audited or ""
        asked = {id: entry.ask() for id, entry in self._entries.items() if id > begin}
        users, more = await self._page(self._audited)
        end = self._audited = users[-1].id if users and more else None
        page = {user.id: user for user in users}
        absent = [id for id in asked if id not in page and (end is None or id < end)]
        newer = []
        for id in [*page, *absent]:
            entry, user = self._entry(id), page.get(id)
            version = entry.version
            step = self._take_answer(id, user, asked.get(id))
            if user is not None and user.version > version:
                newer.append((entry, user.version))
            elif user is None and step is not None:
                newer.append((entry, version + 1))  # The deletion is newer than what was known.
        if newer:
            await asyncio.sleep(SETTLE)
        missed = [entry.id for entry, version in newer if entry.event_version < version]
        if missed:
            self._hub.missed += 1
            self._degrade(f"{self._hub.events}.*")
            log.warning("events of %s do not arrive: a permission, or dropped messages?", missed)
        self._is_clean = self._is_clean and not missed
        if end is None:
            if self._is_clean:
                self.degraded = None
            self._is_clean = True
        return bool(missed)

    # -- what comes

    def _entry(self, id: str) -> Entry:
        entry = self._entries.get(id)
        if entry is None:
            entry = self._entries[id] = Entry(id)
        return entry

    def _take_answer(self, id: str, user: Optional[User], asked: Optional[Asked]) -> Optional[Step]:
        entry = self._entry(id)
        step = entry.on_answer(user, asked or entry.ask())
        self._spread(step)
        return step

    def _take_found(self, user: User, asked: Asked) -> None:
        """An answer to another question."""
        self._take_answer(user.id, user, asked)

    async def _on_message(self, message: Msg) -> None:
        id = decode(message.subject[len(self._hub.events) + 1 :])
        user = parse_event(message.data, id) if id is not None else None
        if user is None:
            self._hub.dropped += 1
        else:
            self._spread(self._entry(user.id).on_event(user))

    def _spread(self, step: Optional[Step]) -> None:
        if step is not None:
            self._take(step)

    # -- signals

    def _doubt(self) -> None:
        if self._state is WatchState.LIVE:
            self._set(WatchState.STALE)

    def _end(self, error: Optional[PresenceError]) -> None:
        super()._end(error)
        if self._take_found in self._hub.takers:
            self._hub.takers.remove(self._take_found)
        self._rounds.stop()
