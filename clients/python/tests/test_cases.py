"""The cases that all clients are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import World

from presenced import _calls, _model, _pace, _tokens, errors
from presenced._pace import Backoff
from presenced._picture import Entry

CASES = Path(__file__).resolve().parents[2] / "cases"


def load(name: str) -> Any:
    return json.loads((CASES / name).read_text())


def name_of(case: Any) -> str:
    return str(case.get("name", "")) if isinstance(case, dict) else ""


@pytest.mark.parametrize("case", load("tokens.json")["valid"], ids=name_of)
def test_an_id_becomes_its_token_and_back(case: Any) -> None:
    assert _tokens.encode(case["id"]) == case["token"]
    assert _tokens.decode(case["token"]) == case["id"]


@pytest.mark.parametrize("case", load("tokens.json")["invalid_ids"], ids=name_of)
def test_what_is_no_id_is_refused(case: Any) -> None:
    with pytest.raises(ValueError):
        _tokens.encode(case["id"])


@pytest.mark.parametrize("case", load("tokens.json")["invalid_tokens"], ids=name_of)
def test_what_is_no_token_is_not_decoded(case: Any) -> None:
    assert _tokens.decode(case["token"]) is None


@pytest.mark.parametrize("case", load("merge.json")["cases"], ids=name_of)
def test_merges_events_and_answers(case: Any) -> None:
    entries: dict[str, Entry] = {}
    queries: dict[str, Any] = {}
    for step in case["steps"]:
        changed = []
        if "query" in step:
            for id in step["users"]:
                entries.setdefault(id, Entry(id))
            queries[step["query"]] = [(id, entries[id].ask()) for id in step["users"]]
        elif "answer" in step:
            found = {user["id"]: _model.parse_user(user) for user in step["found"]}
            for id, asked in queries[step["answer"]]:
                if entries[id].on_answer(found.get(id), asked):
                    changed.append(id)
        elif "event" in step:
            id = _tokens.decode(step["event"]["token"]) or ""
            user = _model.parse_event(step["event"]["payload"].encode(), id)
            if user is not None and entries[id].on_event(user):
                changed.append(id)
        view = {id: entry.user for id, entry in entries.items() if entry.known}
        expected = {id: user and _model.parse_user(user) for id, user in step["view"].items()}
        assert view == expected, step
        assert sorted(changed) == step["changed"], step


KINDS = {
    "refused": errors.Refused,
    "busy": errors.Busy,
    "no_daemon": errors.NoDaemon,
    "no_answer": errors.NoAnswer,
    "permission": errors.Denied,
    "disconnected": errors.Disconnected,
    "malformed": errors.Malformed,
}
EVENTS: dict[str, errors.PresenceError] = {
    "no_responders": errors.NoDaemon("none"),
    "timeout": errors.NoAnswer("none"),
    "link_lost": errors.Disconnected("lost"),
    "permission": errors.Denied("no"),
}


def error_of(outcome: Any) -> errors.PresenceError:
    if "event" in outcome:
        return EVENTS[outcome["event"]]
    with pytest.raises(errors.PresenceError) as caught:
        if "body" in outcome:
            _calls.parse_answer(outcome["body"].encode())
        else:
            reply = outcome["reply"]
            status = None if reply["status"] is None else str(reply["status"])
            _calls.parse_answer(json.dumps({"error": reply["error"]}).encode(), status)
    return caught.value


@pytest.mark.parametrize("case", load("retries.json")["outcomes"], ids=name_of)
def test_decides_on_a_repeat(case: Any) -> None:
    error = error_of(case["outcome"])
    assert type(error) is KINDS[case["kind"]]
    assert error.retryable is case["retry"]
    assert error.may_have_applied is case["may_have_applied"]
    if "code" in case:
        assert error.code == case["code"]
    if case["retry"]:
        least, most = case["wait_ms"]
        for _ in range(200):
            assert least <= _pace.pause_after(error, Backoff()) * 1000 <= most


@pytest.mark.parametrize("case", load("filters.json")["cases"], ids=name_of)
def test_a_filter_passes_as_it_is_written(case: Any) -> None:
    assert json.loads(_calls.dumps(case["json"])) == case["json"]


async def test_filters_find_whom_they_should(world: World) -> None:
    cases = load("filters.json")
    service = await world.service()
    await service.upsert(cases["users"])
    lease = await service.lease("cases")
    for id in cases["online"]:
        await lease.connect(id)
    for case in cases["cases"]:
        found = await service.users(case["json"], fresh=True)
        assert sorted(user.id for user in found) == case["matches"], case["name"]
    for case in cases["invalid"]:
        with pytest.raises(errors.Refused) as caught:
            await service.users(case["json"])
        assert caught.value.code == case["code"]
        assert caught.value.field == case["field"]
