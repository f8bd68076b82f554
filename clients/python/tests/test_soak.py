"""A soak: many operations under cuts, kills, hiding and deletes, then all must be right.

SOAK_OPERATIONS, SOAK_SECONDS and SOAK_SEED set its size; ten minutes by hand are
``SOAK_OPERATIONS=60000 SOAK_SECONDS=600``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable
from functools import partial
from typing import Any, Callable

import pytest
from conftest import LEASE, World, until
from proxy import Proxy

import presenced
from presenced._model import parse_user

USERS = [f"u{number}" for number in range(200)]
OPERATIONS = int(os.environ.get("SOAK_OPERATIONS", "6000"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "7"))


class Actor:
    """Acts for the users of one lease, and remembers who should be there."""

    def __init__(self, service: presenced.Service, lease: presenced.Lease, seed: int) -> None:
        self._service = service
        self._lease = lease
        self._random = random.Random(seed)
        self._seats: dict[str, list[presenced.Seat]] = {}
        self._hidden: dict[str, int] = {}  # Since when, in milliseconds as versions count them.
        self._unsure: set[str] = set()  # Whose hiding had no answer, and may come late.
        self.done = 0
        self.failed = 0

    async def act(self, users: list[str], operations: int, pause: float) -> None:
        clock = asyncio.get_running_loop().time
        next_at = clock()
        for _ in range(operations):
            user = self._random.choice(users)
            try:
                await asyncio.wait_for(self._operate(user), 30)
            except presenced.PresenceError as error:
                assert error.retryable or isinstance(error, presenced.Closed), error
                self.failed += 1
            self.done += 1
            next_at = max(next_at + self._random.uniform(0, 2 * pause), clock() - 1)
            await asyncio.sleep(max(0.0, next_at - clock()))

    async def _operate(self, user: str) -> None:
        seats = self._seats.setdefault(user, [])
        if not seats:
            await self._hide(user, self._random.random() < 0.3, partial(self._sit, user))
            return
        choice, seat = self._random.random(), self._random.choice(seats)
        if choice < 0.3:
            seats.remove(seat)
            await seat.close()
        elif choice < 0.4:
            await self._service.delete([user])
        elif choice < 0.5 and len(seats) < 2:
            seats.append(await self._lease.connect(user))
        elif choice < 0.6:
            await self._hide(user, self._random.random() < 0.6, seat.update)
        elif choice < 0.7:
            by_service = partial(self._service.update, user)
            await self._hide(user, self._random.random() < 0.6, by_service)
        else:
            await seat.update(status=str(self._random.random()))

    async def _sit(self, user: str, *, invisible: bool) -> None:
        seat = await self._lease.connect(user, invisible=invisible)
        self._seats[user].append(seat)

    async def _hide(self, user: str, hides: bool, by: Callable[..., Awaitable[object]]) -> None:
        if not hides:
            self._hidden.pop(user, None)
        try:
            await by(invisible=hides)
        except presenced.PresenceError:
            self._hidden.pop(user, None)
            self._unsure.add(user)
            raise
        if hides and user not in self._unsure:
            self._hidden.setdefault(user, int(time.time() * 1000) + 50)

    def shows_hidden(self, user: presenced.User) -> bool:
        """Whether an event shows a user online by a change that was made while it was hidden."""
        return user.online and user.version > self._hidden.get(user.id, user.version)

    @property
    def hides(self) -> int:
        return len(self._hidden)

    @property
    def seated(self) -> set[str]:
        return {user for user, seats in self._seats.items() if seats}


async def disturb(world: World, proxies: list[Proxy], ends: asyncio.Event) -> None:
    """Cuts links and replaces daemons until the end."""
    dice = random.Random(SEED)
    while not ends.is_set():
        await asyncio.sleep(dice.uniform(0.5, 2.0))
        choice = dice.random()
        if choice < 0.6:
            dice.choice(proxies).cut()
        elif choice < 0.75:
            dice.choice(proxies).black_hole_now()
        else:
            world.start_daemon()
            await asyncio.sleep(LEASE + 1)
            how = signal.SIGKILL if dice.random() < 0.5 else signal.SIGTERM
            world.kill_daemon(world.daemons[0], how)


@pytest.mark.timeout(SECONDS * 3 + 120)
async def test_nobody_is_wrong_after_a_soak(world: World) -> None:
    world.start_daemon()
    proxies = [await world.proxy() for _ in range(3)]
    services = [await world.service(proxy.url) for proxy in proxies]
    leases = [await service.lease("gw") for service in services]
    watch = await services[0].watch(USERS)
    versions: dict[str, int] = {}

    async def follow() -> None:
        async for change in watch:
            if change.id is not None and change.user is not None:
                assert change.user.version >= versions.get(change.id, 0)
                versions[change.id] = change.user.version

    following = asyncio.ensure_future(follow())
    shown: list[presenced.User] = []
    events = 0

    async def take(message: Any) -> None:
        nonlocal events
        user = parse_user(json.loads(message.data)["user"])
        events += 1
        if any(actor.shows_hidden(user) for actor in actors):
            shown.append(user)

    await (await world.connect()).subscribe("user.presence.changed.>", cb=take)
    ends = asyncio.Event()
    actors = [Actor(s, lease, SEED + i) for i, (s, lease) in enumerate(zip(services, leases))]
    disturbing = asyncio.ensure_future(disturb(world, proxies, ends))
    # Each user belongs to one actor, whose workers share its users in lanes.
    lanes = 8
    per_lane = OPERATIONS // (len(actors) * lanes)
    await asyncio.gather(
        *(
            actor.act(
                USERS[index * lanes + lane :: len(actors) * lanes], per_lane, SECONDS / per_lane
            )
            for index, actor in enumerate(actors)
            for lane in range(lanes)
        )
    )
    ends.set()
    await disturbing
    total = sum(actor.done for actor in actors)
    assert total >= OPERATIONS * 0.95
    assert events > OPERATIONS / 4
    assert any(actor.hides for actor in actors)
    reader = await world.service()

    async def differing() -> list[object]:
        answer = await reader.get_many(USERS)
        pairs = ((watch.get(user), answer[user]) for user in USERS)
        return [pair for pair in pairs if announced(pair[0]) != announced(pair[1])]

    async def agrees() -> bool:
        return not await differing()

    async def seats_are_held() -> bool:
        """Each lease has its actor's seats, and the daemons count as many."""
        for lease, actor in zip(leases, actors):
            seats = lease.seats
            if not {seat.user_id for seat in seats} >= actor.seated or lease.held != len(seats):
                return False
            answer = await reader._calls.call("heartbeat", {"lease": lease.name})
            if answer.get("held") != lease.held:
                return False
        return True

    await until(lambda: watch.state == "live", 30)
    await until(seats_are_held, 60)
    seated = {seat.user_id for lease in leases for seat in lease.seats}

    async def nobody_is_wrong() -> bool:
        """Whether users with a seat are online or invisible, and those with none offline."""
        for user in USERS:
            private = await reader.explain(user) if user in seated else {}
            seen = watch.get(user)
            online = seen is not None and seen.online
            if user not in seated and online:
                return False
            if user in seated and not online and '"invisible": true' not in _text(private):
                return False
        return True

    await until(nobody_is_wrong, 60)
    try:
        await until(agrees, 30)
    except AssertionError:
        raise AssertionError(f"wrong: {await differing()}") from None
    assert not shown, f"hidden users were shown online: {shown[:5]}"
    await watch.close()
    await following
    print(f"{total} operations, {sum(actor.failed for actor in actors)} failed in time")


def announced(user: presenced.User | None) -> object:
    """The view of a user by events: an offline user without a status is deleted without one."""
    user = user or presenced.User("")
    return user.online, user.status, user.availability, user.devices


def _text(body: object) -> str:
    return json.dumps(body)
