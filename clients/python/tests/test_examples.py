"""The examples, and the README's program, as they stand."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

from conftest import World, until

import presenced

PROJECT = Path(__file__).resolve().parents[1]
#: An interpreter where the package is installed, instead of this one and the sources.
INSTALLED = os.environ.get("EXAMPLES_PYTHON")


async def start(*arguments: str, url: str = "") -> Process:
    env = {**os.environ, "NATS_URL": url}
    if INSTALLED is None:
        env["PYTHONPATH"] = str(PROJECT / "src")
    python = INSTALLED or sys.executable
    return await asyncio.create_subprocess_exec(python, *arguments, stdout=PIPE, env=env)


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()


async def end(process: Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 20)


async def test_the_bot_greets(world: World) -> None:
    bot = await start(str(PROJECT / "examples/bot.py"), world.url, "john", "jack")
    try:
        assert await line_of(bot) == "watching jack, john"
        service = await world.service()
        async with service.connect("john"):
            assert await line_of(bot) == "Hello, john!"
            greeter = await service.get("greeter")
            assert greeter is not None and greeter.online
    finally:
        await end(bot)


class Client:
    """A client of the example gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def send(self, **body: Any) -> None:
        self.writer.write(json.dumps(body).encode() + b"\n")

    async def next(self) -> Any:
        return json.loads(await asyncio.wait_for(self._reader.readline(), 20))


async def test_the_gateway_serves_clients_without_nats(world: World) -> None:
    gateway = await start(str(PROJECT / "examples/gateway.py"), world.url, "0")
    try:
        port = int((await line_of(gateway)).split()[-1])
        john = Client(*await asyncio.open_connection("127.0.0.1", port))
        john.send(user="john", status="hello")
        assert await john.next() == {"hello": "john"}
        john.send(watch=["jack"])
        assert await john.next() == {"users": {"jack": None}}
        jack = Client(*await asyncio.open_connection("127.0.0.1", port))
        jack.send(user="jack")
        assert await jack.next() == {"hello": "jack"}
        assert (await john.next())["change"] == "came"
        jack.send(update={"status": "busy"})
        assert (await john.next())["user"]["status"] == "busy"
        jack.send(update={"online": True})
        assert "online" in (await jack.next())["error"]
        jack.writer.close()
        assert (await john.next())["change"] == "left"
        john.writer.close()
    finally:
        await end(gateway)
    assert gateway.returncode == 0


def programs(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


async def test_the_program_of_the_readme_runs(world: World, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    text = programs(PROJECT / "README.md")[0]
    program.write_text(text.replace("nats://127.0.0.1:4222", world.url))
    process = await start("-u", str(program))
    try:
        assert await line_of(process) == "{'jack': None, 'jill': None}"
        service = await world.service()

        async def john_is_online() -> bool:
            john = await service.get("john")
            return john is not None and john.online

        await until(john_is_online)
        async with service.connect("jack"):
            assert (await line_of(process)).startswith("came jack User(id='jack', online=True")
    finally:
        await end(process)


async def test_the_program_of_the_projects_readme_follows_a_user(world: World) -> None:
    service = await world.service()
    async with service.connect("john", status="here"):
        process = await start("-c", programs(PROJECT.parents[1] / "README.md")[0], url=world.url)
        try:
            first = await line_of(process)
            assert "status='here'" in first and "'jack': None" in first
            await service.update("john", status="there")
            assert await line_of(process) == "john active there"
            await service.update("john", invisible=True)
            assert await line_of(process) == "john offline there"
        finally:
            await end(process)


async def test_the_other_snippets_of_the_readme_run(world: World) -> None:
    """Each stands in the block of the program, with what the ones before it have made."""
    nc = await world.connect()
    async with presenced.user(nc, "john") as me, presenced.service(nc) as service:
        names = {"nc": nc, "me": me, "service": service, "presenced": presenced}
        snippets = programs(PROJECT / "README.md")[1:]
        assert len(snippets) == 5
        for snippet in snippets:
            if "service.lease" in snippet:
                names["service"] = await world.service()
            code = compile(snippet, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, names)
            if asyncio.iscoroutine(running):
                await asyncio.wait_for(running, 20)
