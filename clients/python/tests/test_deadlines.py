"""A call ends by its deadline, whatever it waits for."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from conftest import Tap, World, until

import presenced

BODY = {"users": [{"status": "x"}]}


async def test_a_call_that_waits_for_another_of_its_user_ends_by_its_deadline(
    world: World,
) -> None:
    me = await world.user("john")
    turns = me._calls.turns
    async with turns.held(["john"]):
        start = time.monotonic()
        with pytest.raises(presenced.NoAnswer) as raised:
            await me._calls.call("upsert_users", BODY, 0.5, ["john"])
        assert 0.4 < time.monotonic() - start < 0.8
        assert raised.value.retryable and not raised.value.may_have_applied
        waiting = asyncio.ensure_future(me.update(status="never"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert turns.is_free("john")
    assert (await me.update(status="hello")).status == "hello"


async def test_a_turn_that_comes_together_with_a_cancellation_is_given_back(world: World) -> None:
    me = await world.user("john")
    turns = me._calls.turns
    for steps in range(6):
        async with turns.held(["john"]):
            waiting = asyncio.ensure_future(me._calls.call("upsert_users", BODY, 0.5, ["john"]))
            await asyncio.sleep(0.01)
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: turns.is_free("john"))


async def test_updates_end_by_their_deadline_while_the_daemons_hang(world: World) -> None:
    me = await world.user("john")
    async with me.connect():
        world.daemons[0].send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            several = (me.update(status=str(number)) for number in range(8))
            results = await asyncio.gather(*several, return_exceptions=True)
            assert all(isinstance(result, presenced.NoAnswer) for result in results)
            assert time.monotonic() - start < 10.5
        finally:
            world.daemons[0].send_signal(signal.SIGCONT)
        assert (await me.update(status="hello")).status == "hello"


async def test_a_request_that_cannot_be_sent_ends_by_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the buffer of nats-py is full and the link takes nothing."""
    service = await world.service()
    await service.get("john")

    async def blocked(*arguments: Any, **options: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(service._link.nats.nc, "publish", blocked)
    start = time.monotonic()
    with pytest.raises(presenced.NoAnswer):
        await service._calls.call("query_users", {}, 0.5)
    assert time.monotonic() - start < 0.8


@pytest.mark.parametrize("kind", ["connection", "lease", "connecting lease", "seat", "client"])
async def test_a_close_ends_by_its_deadline_while_the_daemons_hang(world: World, kind: str) -> None:
    service = await world.service()
    lease = await service.lease("gw")
    opened: dict[str, Any] = {
        "connection": await service.connect("john"),
        "lease": lease,
        "connecting lease": lease,
        "seat": await lease.connect("jack"),
        "client": service,
    }
    world.daemons[0].send_signal(signal.SIGSTOP)
    connecting = kind == "connecting lease"
    seats = [asyncio.ensure_future(lease.connect("jill"))] if connecting else []
    try:
        await until(lambda: lease._batches or not connecting)
        start = time.monotonic()
        await opened[kind].close()
        assert time.monotonic() - start < 3
    finally:
        world.daemons[0].send_signal(signal.SIGCONT)
        await asyncio.gather(*seats, return_exceptions=True)


async def test_a_close_may_be_given_another_deadline(world: World) -> None:
    service = await world.service()
    connection = await service.connect("john")
    lease = await service.lease("gw")
    seat = await lease.connect("jack")
    world.daemons[0].send_signal(signal.SIGSTOP)
    try:
        for opened in (connection, seat, lease):
            start = time.monotonic()
            await opened.close(timeout=0.2)
            assert time.monotonic() - start < 0.7
    finally:
        world.daemons[0].send_signal(signal.SIGCONT)
    await until(lambda: _offline(service, "john", "jack"))


async def _offline(service: presenced.Service, *ids: str) -> bool:
    users = await service.get_many(ids)
    return not any(user is not None and user.online for user in users.values())


@pytest.mark.parametrize("kind", ["connection", "lease", "seat", "watch", "client"])
async def test_a_close_ends_by_its_deadline_on_a_silent_link(world: World, kind: str) -> None:
    proxy = await world.proxy()
    async with presenced.connect(proxy.url) as service:
        lease = await service.lease("gw")
        opened: dict[str, Any] = {
            "connection": await service.connect("john"),
            "lease": lease,
            "seat": await lease.connect("jack"),
            "watch": await service.watch(["jill"]),
            "client": service,
        }
        proxy.black_hole_now()
        start = time.monotonic()
        await opened[kind].close()
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("kind", ["connection", "lease"])
async def test_a_close_that_one_daemon_does_not_answer_is_tried_with_another(
    world: World, kind: str
) -> None:
    service, others = await world.service(), await world.service()
    lease = await service.lease("gw")
    await lease.connect("john")
    connection = await service.connect("jack")
    heard = await Tap.on(world, "presence.v1.disconnect")
    once, unheard = service._calls.once, 3

    async def hung(operation: str, body: Any, timeout: float = 2.5) -> Any:
        nonlocal unheard
        if operation == "disconnect" and unheard:
            unheard -= 1
            await asyncio.sleep(timeout)
            raise presenced.NoAnswer("no answer")
        return await once(operation, body, timeout)

    service._calls.once = hung  # type: ignore[method-assign]
    start = time.monotonic()
    await (lease if kind == "lease" else connection).close()
    assert time.monotonic() - start < 2.2
    assert len(heard.sent) == 1
    await until(lambda: _offline(others, "john" if kind == "lease" else "jack"))
