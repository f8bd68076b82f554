"""What can be no request is an error of one kind, which names the argument, before all else."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable

import pytest
from conftest import Tap, World

import presenced

LONG = "x" * 256


async def test_what_is_invalid_is_named_and_never_sent(world: World) -> None:
    service, me = await world.service(), await world.user("ann")
    nc = service._link.nats.nc
    connection, mine = await service.connect("john"), await me.connect()
    lease = await service.lease("gw")
    seat = await lease.connect("jack")
    watch = await service.watch(["john"])
    wrong: Any = "5"
    loop: dict[str, Any] = {}
    loop["again"] = loop
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("user", lambda: presenced.connect(world.url, user="")),
        ("timeout", lambda: presenced.connect(world.url, timeout=wrong)),
        ("audit", lambda: presenced.service(nc, audit=wrong)),
        ("audit", lambda: presenced.user(nc, "ann", audit=0)),
        ("audit", lambda: presenced.connect(world.url, audit=0)),
        ("events", lambda: presenced.service(nc, events="a b")),
        ("events", lambda: presenced.connect(world.url, events="a..b")),
        ("prefix", lambda: presenced.service(nc, prefix="")),
        ("prefix", lambda: presenced.user(nc, "ann", prefix="presence.*")),
        ("prefix", lambda: presenced.connect(world.url, prefix="a b")),
        ("prefix", lambda: presenced.service(nc, prefix="a.>")),
        ("prefix", lambda: presenced.service(nc, prefix="a\n")),
        ("prefix", lambda: presenced.service(nc, prefix=5)),  # type: ignore[arg-type]
        ("timeout", lambda: service.close(timeout=-1)),
        ("seen_by", lambda: service.users(seen_by="")),
        ("seen_by", lambda: service.channels(seen_by=LONG)),
        ("seen_by", lambda: service.count(seen_by=wrong.encode())),
        ("id", lambda: presenced.user(nc, "")),
        ("user", lambda: service.connect("")),
        ("user", lambda: service.connect("a\n")),
        ("user", lambda: lease.connect(LONG)),
        ("name", lambda: service.lease("")),
        ("name", lambda: service.lease("x" * 223)),
        ("ids[1]", lambda: service.watch(["john", ""])),
        ("ids", lambda: service.watch(3)),  # type: ignore[arg-type]
        ("ids[0]", lambda: watch.add(LONG)),
        ("id", lambda: service.get("")),
        ("ids[0]", lambda: service.get_many([LONG])),
        ("ids[0]", lambda: service.delete([""])),
        ("user", lambda: service.update("", x=1)),
        ("user", lambda: service.explain("")),
        ("users[1].id", lambda: service.upsert([{"id": "a"}, {"x": 1}])),
        ("type", lambda: service.upsert_channel("", "a")),
        ("id", lambda: service.delete_channel("team", "")),
        ("add_members[0]", lambda: service.upsert_channel("team", "a", add_members=[""])),
        ("users", lambda: service.watch_channel("team", "a", users="some")),
        ("users[0]", lambda: service.watch_channel("team", "a", users=[""])),
        ("id", lambda: service.connect("john", id="jack")),
        ("id", lambda: lease.connect("john", {"id": "jack"})),
        ("id", lambda: service.update("john", id="jack")),
        ("id", lambda: me.update({"id": "ann"})),
        ("id", lambda: connection.update(id="jack")),
        ("id", lambda: mine.update(id="jack")),
        ("id", lambda: seat.update({"id": "jack"})),
        ("fields", lambda: connection.update({1: 2})),  # type: ignore[dict-item]
        ("fields", lambda: service.update("john", [1])),  # type: ignore[arg-type]
        ("defaults", lambda: service.connect("john", defaults={1: 2})),  # type: ignore[dict-item]
        ("x.y", lambda: seat.update(x={"y": float("inf")})),
        ("x.y", lambda: seat.update(x={"y": 10**5000})),
        ("x", lambda: me.update(x=datetime(2026, 1, 1))),
        ("data", lambda: service.upsert_channel("team", "a", {1: 2})),  # type: ignore[dict-item]
        ("filter", lambda: service.users({1: 2})),  # type: ignore[dict-item]
        ("device", lambda: connection.set_device(wrong.encode())),
        ("timeout", lambda: connection.update(x=1, timeout=wrong)),
        ("timeout", lambda: seat.update(x=1, timeout=-1)),
        ("timeout", lambda: seat.set_idle(True, timeout=float("nan"))),
        ("timeout", lambda: lease.connect("jill", timeout=wrong)),
        ("timeout", lambda: connection.close(timeout=wrong)),
        ("timeout", lambda: seat.close(timeout=wrong)),
        ("timeout", lambda: lease.close(timeout=wrong)),
        ("limit", lambda: service.watch_where({}, limit=250)),
        ("limit", lambda: service.watch_where({}, limit=0)),
        ("limit", lambda: service.users(limit=-1)),
        ("limit", lambda: service.channels(limit=wrong)),
        ("nc", lambda: presenced.service(None)),  # type: ignore[arg-type]
        ("sort", lambda: service.users(sort={"id"})),  # type: ignore[arg-type]
        ("sort", lambda: service.users(sort=[wrong])),
        ("sort", lambda: service.watch_where({}, sort={"id": loop})),  # type: ignore[dict-item]
        ("member_limit", lambda: service.watch_channel("team", "a", member_limit=wrong)),
        ("member_limit", lambda: service.watch_channel("team", "a", member_limit=101)),
        ("loop", lambda: seat.update(loop=loop)),
        ("loop", lambda: service.upsert([{"id": "a", "loop": loop}])),
    ]
    tap = await Tap.on(world, "presence.v1.>")
    for number, (field, call) in enumerate(cases):
        with pytest.raises(presenced.Invalid) as caught:
            await call()
        assert caught.value.field == field, number
        assert str(caught.value).startswith(f"{field}: "), number
        assert isinstance(caught.value, (ValueError, presenced.PresenceError)), number
        assert not (caught.value.retryable or caught.value.may_have_applied)
    assert not [body for body in tap.bodies if "ops" in body or "users" in body]
    assert connection.state == seat.state == lease.state == "online"
    await service.lease("x" * 222)
