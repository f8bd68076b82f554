"""A client in another language, with nothing of ours but the protocol.

Usage: client.py URL. Ends with exit code 0 if all is as the protocol says.
"""

import asyncio
import json
import sys

import nats

PREFIX = "presence.v1"
EVENTS = "user.presence.changed"


def check(condition, *what):
    if not condition:
        raise AssertionError(*what)


async def ask(connection, operation, body, user=None):
    """The answer of an operation, and the headers of an error reply."""
    subject = f"{PREFIX}.{operation}" + (f".{user}" if user else "")
    reply = await connection.request(subject, json.dumps(body).encode(), timeout=5)
    return json.loads(reply.data), reply.headers


async def story(connection):
    events = await connection.subscribe(f"{EVENTS}.alice=40example=2Ecom")
    await connection.flush()

    user = {"id": "alice@example.com", "status": "Käse 🧀", "name": "Alice"}
    connected, headers = await ask(connection, "connect", {"user": user, "connection_id": "c1"})
    check(headers is None, headers)
    check(connected["me"]["online"] is True and connected["me"]["status"] == "Käse 🧀", connected)
    check(
        connected["heartbeat"]["interval_ms"] * 2 <= connected["heartbeat"]["lease_ms"], connected
    )

    event = await events.next_msg(timeout=5)
    body = json.loads(event.data)
    check(body["type"] == "user.presence.changed", body)
    check(event.headers["Presence-Version"] == str(body["user"]["version"]), event.headers)

    query = {
        "filter": {"id": {"$in": ["alice@example.com", "bob"]}},
        "sort": {"id": -1},
        "presence": True,
    }
    found, _ = await ask(connection, "query_users", query)
    check(found["users"] == [body["user"]], found, body)
    check(found["presence"]["subjects"] == [f"{EVENTS}.alice=40example=2Ecom"], found)

    refused, headers = await ask(connection, "connect", {"user": {"id": "bob", "online": True}})
    check(headers["Nats-Service-Error-Code"] == "400", headers)
    check(headers["Nats-Service-Error"], headers)
    check(refused["error"]["code"] == "invalid_request", refused)
    check(refused["error"]["details"]["field"] == "user.online", refused)

    own = {"users": [{"status": None}]}
    _, headers = await ask(connection, "upsert_users", own, user="alice=40example=2Ecom")
    check(headers is None, headers)
    event = json.loads((await events.next_msg(timeout=5)).data)
    check(event["user"]["status"] is None, event)
    _, headers = await ask(
        connection, "connect", {"user": {"id": "bob"}}, user="alice=40example=2Ecom"
    )
    check(headers["Nats-Service-Error-Code"] == "403", headers)

    beat = {"user_id": "alice@example.com", "connection_id": "c1"}
    heard, _ = await ask(connection, "heartbeat", beat)
    check(heard == {"unknown": [], "heartbeat": connected["heartbeat"]}, heard)
    gone, _ = await ask(connection, "disconnect", beat)
    check(gone["disconnected"] == 1, gone)
    event = json.loads((await events.next_msg(timeout=5)).data)
    check(event["user"]["online"] is False, event)
    heard, _ = await ask(connection, "heartbeat", beat)
    check(heard["unknown"] == [beat], heard)

    pong = json.loads((await connection.request("$SRV.PING.presence", b"", timeout=5)).data)
    check(pong["name"] == "presence" and pong["type"].endswith("ping_response"), pong)


async def main():
    connection = await nats.connect(sys.argv[1])
    try:
        await story(connection)
    finally:
        await connection.close()


asyncio.run(main())
