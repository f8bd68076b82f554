"""Users, errors and handles as objects: copied, compared, printed, pickled."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import json
import pickle
import signal
import time
from typing import Any

import pytest
from conftest import World

import presenced
from presenced import _calls, _model, errors

JOHN = {
    "id": "john",
    "online": True,
    "status": "x",
    "last_active": "2019-01-07T13:17:42.375Z",
    "offline_since": None,
    "availability": "active",
    "created_at": "2019-01-07T13:17:42.375123456+01:00",
    "updated_at": "2019-01-07T13:17:42Z",
    "version": 7,
    "team": {"name": "red"},
}


def test_a_user_is_compared_hashed_copied_and_pickled() -> None:
    john = _model.parse_user(JOHN)
    assert john == _model.parse_user(JOHN) and len({john, _model.parse_user(JOHN)}) == 1
    assert john != _model.parse_user({**JOHN, "team": {"name": "blue"}})
    assert copy.deepcopy(john) == pickle.loads(pickle.dumps(john)) == john
    assert json.dumps(dataclasses.asdict(john), default=str)
    with pytest.raises(dataclasses.FrozenInstanceError):
        john.status = "y"  # type: ignore[misc]
    assert john.created_at is not None and john.created_at.microsecond == 375123


CHANGES_OF_A_DICT: list[tuple[Any, ...]] = [
    ("update", {"x": 1}),
    ("__setitem__", "x", 1),
    ("__delitem__", "team"),
    ("__ior__", {"x": 1}),
    ("setdefault", "x", 1),
    ("pop", "team"),
    ("popitem",),
    ("clear",),
]


def test_the_fields_that_watches_share_do_not_change() -> None:
    john = _model.parse_user(JOHN)
    team = _model.parse_channel({"type": "team", "id": "a", "color": "red"})
    for holder in (john, team, copy.copy(john), copy.deepcopy(john), presenced.User("x")):
        for name, *arguments in CHANGES_OF_A_DICT:
            with pytest.raises(TypeError, match="do not change"):
                getattr(holder.fields, name)(*arguments)
    assert john.fields == {"team": {"name": "red"}} and {**john.fields, "x": 1}["x"] == 1
    assert json.loads(json.dumps(john.fields)) == john.fields
    assert dataclasses.asdict(john)["fields"] == john.fields


@pytest.mark.parametrize("broken", [None, [], {}, {"id": 3, "online": True}, {**JOHN, "status": 1}])
def test_what_is_no_user_is_malformed(broken: object) -> None:
    with pytest.raises(presenced.Malformed):
        _model.parse_user(broken)


@pytest.mark.parametrize("version", [2**53, 10**400, -1, True, 1.5, "7", None])
def test_a_version_that_no_daemon_writes_is_malformed(version: object) -> None:
    body = {**JOHN, "version": version}
    with pytest.raises(presenced.Malformed):
        _model.parse_user(body)
    event = {"type": "user.presence.changed", "user": body}
    assert _model.parse_event(json.dumps(event).encode(), "john") is None


def test_what_is_nested_too_deeply_is_malformed() -> None:
    deep = b'{"users":' * 100_000
    with pytest.raises(presenced.Malformed):
        _calls.parse_answer(deep)
    assert _model.parse_event(deep, "john") is None


def test_unknown_fields_are_kept_and_missing_ones_tolerated() -> None:
    user = _model.parse_user({"id": "x", "online": False, "new": 1})
    assert (user.fields, user.version, user.last_active) == ({"new": 1}, 0, None)


def test_errors_say_what_a_program_may_act_on() -> None:
    error = errors.from_answer(
        {"code": "too_many_users", "message": "at most 10", "details": {"limit": 10, "field": "u"}}
    )
    assert isinstance(error, presenced.Refused) and isinstance(error, presenced.PresenceError)
    assert (error.code, error.limit, error.field, error.retry_after) == (
        "too_many_users",
        10,
        "u",
        None,
    )
    assert str(error) == "at most 10"
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.limit, str(again)) == ("too_many_users", 10, "at most 10")
    denied = pickle.loads(pickle.dumps(presenced.Denied("no", subject="a.b")))
    assert (denied.subject, denied.code, denied.retryable) == ("a.b", "permission", False)
    invalid = copy.copy(pickle.loads(pickle.dumps(presenced.Invalid("id", "none"))))
    assert (invalid.field, str(invalid)) == ("id", "id: none")


@pytest.mark.parametrize(
    "name", [n for n in presenced.__all__ if inspect.isclass(getattr(presenced, n))]
)
def test_what_is_public_is_documented(name: str) -> None:
    public = getattr(presenced, name)
    assert public.__doc__ or hasattr(public, "__total__")  # A TypedDict made by a call has none.
    for method, value in vars(public).items():
        if not method.startswith("_") and inspect.isroutine(value):
            assert value.__doc__ or method in ("add", "remove"), f"{name}.{method}"


async def test_handles_say_what_they_are(world: World) -> None:
    service = await world.service()
    me = await world.user("john")
    assert repr(service) == "<Service, up>" and repr(me) == "<UserClient of 'john', up>"
    async with me.connect() as connection, me.watch(["jack"]) as watch:
        assert repr(connection) == "<Connection of 'john', online>"
        assert repr(watch) == "<UserWatch live, 1 users>"
    assert repr(connection) == "<Connection of 'john', closed>"
    async with service.lease("gw") as lease:
        seat = await lease.connect("jack")
        assert repr(seat) == "<Seat of 'jack', online>"
        assert repr(lease).endswith("online, 1 of 1 seats>")
    assert repr(seat) == "<Seat of 'jack', closed>"


@pytest.mark.parametrize("id", ["", "x" * 256, "a\nb"])
async def test_an_id_that_is_none_raises_before_anything_is_sent(world: World, id: str) -> None:
    service = await world.service()
    with pytest.raises(ValueError):
        service.connect(id)
    with pytest.raises(ValueError):
        presenced.user(await world.connect(), id)
    with pytest.raises(ValueError):
        service.watch([id])
    async with service.lease("gw") as lease:
        with pytest.raises(ValueError):
            lease.connect(id)


async def test_a_fault_of_the_library_is_logged_and_wakes_those_who_wait(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*arguments: object) -> None:
        raise RuntimeError("a fault")

    service = await world.service()
    watch, everyone = await service.watch(["john"]), await service.watch_all()
    connection = await service.connect("john")
    lease = await service.lease("gw")
    service._hub._subscribe = fails  # type: ignore[method-assign]
    watch.add("jack")
    everyone._list = fails  # type: ignore[method-assign]
    everyone._rounds.doubt()
    connection._beat = fails  # type: ignore[method-assign]
    lease._send = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(presenced.Closed):
        await lease.connect("jill")
    for waiting in (watch, everyone):
        assert [change.state async for change in waiting][-1] == "closed"
        assert "a fault" in str(waiting.last_error)
    with pytest.raises(presenced.Closed):
        await asyncio.wait_for(_closed(connection), 5)
        await connection.update(status="x")
    assert sum("in an unforeseen way" in record.message for record in caplog.records) >= 4


async def _closed(connection: presenced.Connection) -> None:
    async for _ in connection.states():
        pass


async def test_a_query_is_run_again_by_each_task(world: World) -> None:
    service = await world.service()
    await service.update("john", x=1)
    query = service.users({"x": 1})
    for _ in range(2):
        assert [user.id for user in await asyncio.wait_for(query, 5)] == ["john"]
        assert len(await query) == 1
    wrong = service.users({"online": {"$gt": True}})
    for _ in range(2):
        with pytest.raises(presenced.Refused):
            await asyncio.wait_for(wrong, 5)


async def test_the_close_of_a_client_has_a_timeout(world: World) -> None:
    service = await world.service()
    connection, lease = await service.connect("john"), await service.lease("gw")
    await lease.connect("jack")
    world.daemons[0].send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        await service.close(timeout=0.3)
        assert time.monotonic() - start < 1
    finally:
        world.daemons[0].send_signal(signal.SIGCONT)
    assert connection.state == lease.state == "closed"
