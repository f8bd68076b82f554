"""A real nats-server and real daemons for each test, on free ports, ended at its end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import nats
import pytest
from proxy import Proxy

import presenced
from presenced._nats import close_nats

#: Without force_reconnect only the PINGs of nats-py find a silent link, if they are often enough.
OWN_PINGS = {} if hasattr(nats.NATS, "force_reconnect") else {"ping_interval": 1}
ROOT = Path(__file__).resolve().parents[3]
LIVENESS = {"heartbeat_interval": "1s", "lease": "3s", "offline_grace": "500ms"}
LEASE = 3.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], Any], timeout: float = 15.0) -> Any:
    """Waits for a condition; a coroutine function is asked again and again."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not so within {timeout} s: {condition}")
        await asyncio.sleep(0.02)


class World:
    """NATS and daemons, which a test may kill and start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.config: Optional[Path] = None
        self.nats: Optional[subprocess.Popen[bytes]] = None
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.proxies: list[Proxy] = []
        self.clients: list[Any] = []
        self.settings: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start_nats(self) -> None:
        command = [os.environ.get("NATS_SERVER", "nats-server"), "-a", "127.0.0.1"]
        command += ["-p", str(self.port)]
        store = ["-js", "-sd", str(self.folder / "store")]
        command += ["-c", str(self.config)] if self.config else store
        with open(self.folder / "nats.log", "ab") as log:
            self.nats = subprocess.Popen(command, stdout=log, stderr=log)

    def kill_nats(self) -> None:
        assert self.nats is not None
        self.nats.kill()
        self.nats.wait()

    def start_daemon(self, url: Optional[str] = None) -> subprocess.Popen[bytes]:
        settings = {f"liveness.{name}": value for name, value in LIVENESS.items()}
        command = [os.environ.get("PRESENCED", str(ROOT / "target/debug/presenced")), "run"]
        command += ["--nats-url", url or self.url]
        for name, value in {**settings, **self.settings}.items():
            command += ["--set", f"{name}={value}"]
        with open(self.folder / "daemon.log", "ab") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        self.daemons.append(daemon)
        return daemon

    def kill_daemon(self, daemon: subprocess.Popen[bytes], how: int = signal.SIGKILL) -> None:
        self.daemons.remove(daemon)
        daemon.send_signal(how)
        daemon.wait()

    async def proxy(self) -> Proxy:
        proxy = Proxy(self.port)
        await proxy.start()
        self.proxies.append(proxy)
        return proxy

    async def connect(self, url: Optional[str] = None, **options: Any) -> nats.NATS:
        async def quiet(error: Exception) -> None:
            pass

        settings: dict[str, Any] = {
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.1,
            "connect_timeout": 2,
            "error_cb": quiet,
            **OWN_PINGS,
        }
        nc = await nats.connect(url or self.url, **{**settings, **options})
        self.clients.append(nc)
        return nc

    async def service(self, url: Optional[str] = None, **options: Any) -> presenced.Service:
        """A service over a NATS connection of its own; closed by the test, or at its end."""
        service = presenced.service(await self.connect(url), **options)
        self.clients.append(service)
        return service

    async def user(self, id: str, url: Optional[str] = None) -> presenced.UserClient:
        user = presenced.user(await self.connect(url), id)
        self.clients.append(user)
        return user

    async def ready(self, url: Optional[str] = None, **options: Any) -> None:
        """Returns when a daemon answers."""

        async def connects() -> Any:
            try:
                return await self.connect(url, **options)
            except (OSError, nats.errors.Error, asyncio.TimeoutError):
                return None

        nc = await until(connects)

        async def answers() -> bool:
            try:
                await nc.request("presence.v1.query_users", b"{}", timeout=1)
            except (nats.errors.Error, asyncio.TimeoutError):
                return False
            return True

        await until(answers, 30)

    async def close(self) -> None:
        for client in reversed(self.clients):
            is_nats = isinstance(client, nats.NATS)
            await asyncio.wait_for(close_nats(client) if is_nats else client.close(), 20)
        for proxy in self.proxies:
            await proxy.close()
        for daemon in list(self.daemons):
            self.kill_daemon(daemon)
        if self.nats is not None:
            self.kill_nats()
        shutil.rmtree(self.folder / "store", ignore_errors=True)


@pytest.fixture(autouse=True)
def no_version_goes_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Holds each step of each watch against the ones before, in every test."""
    take = presenced.Watch._take
    newest: dict[tuple[int, str], int] = {}
    watches: list[presenced.Watch] = []  # So that no number of a watch is used again.
    wrong: list[Any] = []

    def checked(watch: presenced.Watch, step: Any) -> None:
        watches.append(watch)
        version = 0 if step.user is None else step.user.version
        before = newest.get((id(watch), step.id), 0)
        if step.user is not None and version < before:
            wrong.append((step, before))
        newest[id(watch), step.id] = max(before, version)
        take(watch, step)

    monkeypatch.setattr(presenced.Watch, "_take", checked)
    yield
    assert not wrong, "a version went back"


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[World]:
    """A world in which nothing runs yet. No task may be left when all is closed."""
    world = World(tmp_path)
    before = asyncio.all_tasks()
    try:
        yield world
    finally:
        await world.close()

    def left() -> set[asyncio.Task[Any]]:
        tasks = asyncio.all_tasks() - before
        # nats-py may leave its own reconnecting behind when it is closed meanwhile.
        return {
            task
            for task in tasks
            if task is not asyncio.current_task()
            and getattr(task.get_coro(), "__qualname__", "") != "Client._attempt_reconnect"
        }

    try:
        await until(lambda: not left(), 3)
    except AssertionError:
        raise AssertionError(f"tasks are left: {left()}") from None


@pytest.fixture
async def world(bare: World) -> World:
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    return bare


async def same_as_query(world: World, watch: presenced.Watch) -> bool:
    """Whether a watch shows what a query answers."""
    answer: Awaitable[Any] = (await world.service()).get_many(sorted(watch.ids))
    return bool(dict(watch) == await answer)


async def same_versions(world: World, watch: presenced.Watch) -> bool:
    """As ``same_as_query``, but for what changes without an event: a connect is ``last_active``."""
    answer = await (await world.service()).get_many(sorted(watch))
    return all(
        getattr(watch[id], "version", 0) == getattr(answer[id], "version", 0) for id in watch
    )


class Tap:
    """The messages on a subject: the time, the body, and whether an answer was asked for."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, dict[str, Any], bool]] = []

    @classmethod
    async def on(cls, world: World, subject: str) -> Tap:
        tap, nc = cls(), await world.connect()

        async def take(message: Any) -> None:
            body = json.loads(message.data)
            tap.sent.append((time.monotonic(), body, bool(message.reply)))

        await nc.subscribe(subject, cb=take)
        await nc.flush()
        return tap

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body, _ in self.sent]


class Log:
    """Reads a watch to its end, and holds each step against the one before."""

    def __init__(self, watch: presenced.Watch) -> None:
        self.kinds: list[str] = []
        self._versions: dict[str, int] = {}
        self.task = asyncio.ensure_future(self._read(watch))

    async def _read(self, watch: presenced.Watch) -> None:
        async for change in watch:
            self.kinds.append(change.kind)
            if change.user is not None and change.id is not None:
                assert change.user.version >= self._versions.get(change.id, 0)
                self._versions[change.id] = change.user.version

    def seen(self, *kinds: str) -> int:
        return sum(kind in kinds for kind in self.kinds)


PERMISSIONS = """
jetstream {{ store_dir: "{store}" }}
authorization {{ users: [
  {{ user: admin, password: a }}
  {{ user: john, password: j, permissions: {{
    publish: {{ allow: ["{publish}"], deny: ["presence.v1.count_users.john", {deny}] }}
    subscribe: {{ allow: ["_INBOX.>", "user.presence.changed.john", {see}] }}
  }} }}
] }}
"""


async def permitted(
    world: World, see: str = "", deny: str = "", publish: str = "presence.v1.*.john"
) -> None:
    """Starts a world where john may do what a client of his may, and see who is named."""
    world.config = world.folder / "nats.conf"
    store = world.folder / "store"
    world.config.write_text(PERMISSIONS.format(store=store, see=see, deny=deny, publish=publish))
    world.start_nats()
    world.start_daemon(world.url.replace("//", "//admin:a@"))
    await world.ready(user="admin", password="a")
