"""The examples, and the README's program, as they stand."""

from __future__ import annotations

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

PROJECT = Path(__file__).resolve().parents[1]


async def start(*arguments: str) -> Process:
    env = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE, env=env)


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


async def test_the_program_of_the_readme_runs(world: World, tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text()
    found = re.search(r"```python\n(import asyncio\n.*?)```", text, re.DOTALL)
    assert found
    program = tmp_path / "program.py"
    program.write_text(found.group(1).replace("nats://127.0.0.1:4222", world.url))
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
