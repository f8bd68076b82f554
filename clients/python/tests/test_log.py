"""An application that configures nothing sees failures by ``logging``, and each once."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import pytest
from conftest import World, permitted, until

import presenced


class Lines:
    """The lines that this package has logged, from WARNING on."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, "presenced")

    def __call__(self, level: int = logging.WARNING) -> list[str]:
        records = [record for record in self._caplog.records if record.name == "presenced"]
        return [record.getMessage() for record in records if record.levelno >= level]

    def count(self, text: str) -> int:
        return sum(text in line for line in self(logging.INFO))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


async def test_who_configures_nothing_reads_why_nothing_connects(bare: World) -> None:
    begin = f"presenced.connect('{bare.url}').__aenter__()"
    program = f"import asyncio, presenced; asyncio.run({begin})"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program),
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(presenced.__file__).parents[1])},
    )
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), 20)
    process.kill()
    await process.wait()
    assert line.startswith(b"NATS: ") and str(bare.port).encode() in line


async def test_an_error_of_the_own_connection_is_logged_once_an_outage(
    world: World, lines: Lines
) -> None:
    async with presenced.connect(world.url, reconnect_time_wait=0.05) as service:
        await service.get("john")
        for outage in (1, 2):
            errors = len(lines())
            world.kill_nats()
            await until(lambda n=outage: lines.count("NATS is away") == n)
            await asyncio.sleep(0.5)
            assert any(line.startswith("NATS: ") for line in lines()[errors:])
            assert len(set(lines()[errors:])) == len(lines()[errors:])
            world.start_nats()
            await until(lambda n=outage: lines.count("NATS is back") == n)
        await until(lambda: service._link.is_up)


async def test_who_gives_an_error_cb_logs_as_it_likes(world: World, lines: Lines) -> None:
    errors: list[Exception] = []

    async def error_cb(error: Exception) -> None:
        errors.append(error)

    async with presenced.connect(world.url, error_cb=error_cb, reconnect_time_wait=0.05):
        world.kill_nats()
        await until(lambda: errors)
    assert not [line for line in lines() if line.startswith("NATS: ")]


async def test_a_connection_that_waits_for_a_daemon_says_so_once(bare: World, lines: Lines) -> None:
    bare.start_nats()
    await until(lambda: _connects(bare))
    service = await bare.service()
    lease = await service.lease("gw")
    connecting = [
        asyncio.ensure_future(service.connect("john")),
        asyncio.ensure_future(lease.connect("jack", timeout=60)),
    ]
    watching = asyncio.ensure_future(service.watch(["john"]))
    await asyncio.sleep(3)
    text = "what the daemons are asked for is tried again: NATS answers, but no daemon"
    assert lines.count(text) == len(lines()) == 1
    bare.start_daemon()
    await asyncio.gather(*connecting, watching)
    await until(lambda: lines.count("what the daemons are asked for is well again") == 1)
    assert len(lines(logging.INFO)) == 2


async def test_an_outage_of_the_daemons_is_logged_once_for_all(world: World, lines: Lines) -> None:
    service = await world.service()
    connections = [await service.connect(f"u{number}") for number in range(10)]
    async with service.lease("gw") as lease:
        await lease.connect("jack")
        world.daemons[0].send_signal(signal.SIGSTOP)
        await until(lambda: all(each.last_error is not None for each in connections))
        assert len(lines()) == 1 and "no answer" in lines()[0]
        world.daemons[0].send_signal(signal.SIGCONT)
        await until(lambda: all(each.last_error is None for each in connections))
        await until(lambda: lines.count("is well again") == 1)
        assert len(lines()) <= 2  # A daemon that was stalled says so, too.


async def _connects(world: World) -> bool:
    try:
        await world.connect()
    except OSError:
        return False
    return True


async def test_what_is_raised_is_not_logged(
    world: World, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await world.service()
    with pytest.raises(presenced.Refused):
        await service.connect("john", status=17)
    async with service.lease("gw") as lease:
        with pytest.raises(presenced.Refused):
            await lease.connect("john", status=17)
    with pytest.raises(presenced.Refused):
        await service.watch_where({"online": {"$gt": True}})
    with pytest.raises(presenced.Refused):
        await service.watch_channel("team", "a", users=["stranger"])

    async def deleted_meanwhile(watch: object) -> None:
        raise presenced.Refused("there is no such channel", code="channel_not_found")

    monkeypatch.setattr(presenced.ChannelWatch, "_check_exists", deleted_meanwhile)
    with pytest.raises(presenced.Refused):
        await service.watch_channel("team", "b", data={"members": ["john"]})
    assert not lines(logging.INFO)


@pytest.mark.parametrize("kind", ["where", "all"])
async def test_what_a_login_may_not_watch_is_raised_and_not_logged(
    bare: World, lines: Lines, kind: str
) -> None:
    await permitted(bare, publish="presence.v1.connect.john")
    url = bare.url.replace("//", "//john:j@")
    door: presenced.Service | presenced.UserClient
    door = await bare.service(url) if kind == "all" else await bare.user("john", url)
    with pytest.raises(presenced.Denied):
        if isinstance(door, presenced.Service):
            await door.watch_all()
        else:
            await door.watch_where({"online": True})
    assert not lines(logging.INFO)


async def test_a_refused_subject_is_logged_by_its_name(bare: World, lines: Lines) -> None:
    await permitted(bare)
    me = await bare.user("john", bare.url.replace("//", "//john:j@"))
    with pytest.raises(presenced.Denied):
        await me.watch(["jack"])
    assert lines() == ["NATS refuses the subscription to user.presence.changed.jack"]


async def test_the_end_of_a_connection_is_logged(world: World, lines: Lines) -> None:
    service = await world.service()
    async with service.connect("john") as connection:
        connection._finish(presenced.Refused("no more"))
        assert lines() == ["the connection of 'john' has ended: no more"]
        await service._link.nats.nc.close()
        await until(lambda: service._link.closed)
        assert lines()[1:] == ["nothing goes on: the NATS connection is closed"]
