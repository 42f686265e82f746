"""The routes of policies over real HTTP and both databases."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.core.clock import now
from relay.policy.default import DEFAULT_TEXT
from relay.store.target import Target
from tests.audit_kit import own
from tests.gateway import Gateway, open_gateway
from tests.policy_world import ALL, NONE, READS

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
BROKEN = f'{ALL}\n  permit (principal, action == Relay::Action::"no.such", resource);'


async def put(gateway: Gateway, text: str, key: str | None = None, **more: Any) -> Any:
    body = {"text": text, **more}
    return (await gateway.call("PUT", "/policies", key=key or gateway.admin, json=body)).expect(200)


async def replay(gateway: Gateway, **body: Any) -> Any:
    return (await gateway.post("/policies/replay", body, key=gateway.admin)).expect(200)


async def test_the_default_until_something_is_put(gateway: Gateway) -> None:
    found = (await gateway.get("/policies", key=gateway.admin)).expect(200)
    assert (found["version"], found["active"], found["default"]) == (0, 0, True)
    assert found["text"] == DEFAULT_TEXT and found["problems"] == [] and found["created_at"] is None
    assert "forbid" in found["baseline"] and '@id("unapproved-destruction")' in found["baseline"]
    listed = (await gateway.get("/policies/versions", key=gateway.admin)).expect(200)
    assert listed == {"items": [], "next_cursor": None}


async def test_put_read_and_return(gateway: Gateway) -> None:
    made = await put(gateway, NONE, comment="closed")
    assert (made["version"], made["active"], made["warnings"]) == (1, True, [])
    found = (await gateway.get("/policies", key=gateway.admin)).expect(200)
    assert (found["version"], found["active"], found["default"]) == (1, 1, False)
    assert (found["text"], found["comment"], found["digest"]) == (NONE, "closed", made["digest"])
    assert found["author"].startswith("key_") and found["created_at"].endswith("Z")
    assert (await put(gateway, READS, activate=False))["version"] == 2
    found = (await gateway.get("/policies", key=gateway.admin)).expect(200)
    assert (found["version"], found["active"], found["text"]) == (2, 1, NONE)
    version = (await gateway.get("/policies/versions/2", key=gateway.admin)).expect(200)
    assert (version["text"], version["active"], version["version"]) == (READS, False, 2)
    done = (await gateway.post("/policies/activate", {"version": 2}, key=gateway.admin)).expect(200)
    assert done["version"] == 2
    (await gateway.post("/policies/activate", {"version": 3}, key=gateway.admin)).expect(404)
    (await gateway.post("/policies/activate", {"version": 0}, key=gateway.admin)).expect(200)
    assert (await gateway.get("/policies", key=gateway.admin)).expect(200)["default"] is True


async def test_a_text_that_does_not_check(gateway: Gateway) -> None:
    problem = (await gateway.call("PUT", "/policies", key=gateway.admin, json={"text": BROKEN})).expect(422)
    [error] = [found for found in problem["errors"] if "no.such" in found["reason"]]
    assert (error["pointer"], error["line"]) == ("/text", 2)
    assert error["column"] == BROKEN.splitlines()[1].index("Relay::") + 1
    assert error["message"] == f"line 2, column {error['column']}: {error['reason']}"
    assert (await gateway.get("/policies", key=gateway.admin)).expect(200)["version"] == 0
    problem = (await gateway.post("/policies/replay", {"text": "permit"}, key=gateway.admin)).expect(422)
    assert {error["pointer"] for error in problem["errors"]} == {"/text"}


async def test_lost_updates(gateway: Gateway) -> None:
    await put(gateway, READS, expected_version=0)
    body = {"text": ALL, "expected_version": 0}
    problem = (await gateway.call("PUT", "/policies", key=gateway.admin, json=body)).expect(409)
    assert problem["version"] == 1
    answer = await gateway.post("/policies/activate", {"version": 0, "expected_version": 0}, key=gateway.admin)
    assert answer.expect(409)["version"] == 1


async def test_puts_at_once_lose_nothing(gateway: Gateway) -> None:
    made = await asyncio.gather(*(put(gateway, READS, comment=f"number {number}") for number in range(10)))
    assert sorted(found["version"] for found in made) == list(range(1, 11))
    first = (await gateway.get("/policies/versions?limit=4", key=gateway.admin)).expect(200)
    rest = (await gateway.get(f"/policies/versions?limit=100&cursor={first['next_cursor']}", key=gateway.admin)).json
    items = first["items"] + rest["items"]
    assert [item["version"] for item in items] == list(range(10, 0, -1)) and rest["next_cursor"] is None
    assert {item["comment"] for item in items} == {f"number {number}" for number in range(10)}
    assert [item["version"] for item in items if item["active"]] == [10]
    assert not any("text" in item for item in items)


async def test_the_diff_of_two_versions(gateway: Gateway) -> None:
    await put(gateway, f"{READS}\n")
    await put(gateway, f"{READS}\n{NONE}\n")
    found = (await gateway.get("/policies/versions/1/diff?to=2", key=gateway.admin)).expect(200)
    assert (found["from_version"], found["to_version"]) == (1, 2)
    assert found["diff"] == f"--- version 1\n+++ version 2\n@@ -1 +1,2 @@\n {READS}\n+{NONE}\n"
    back = (await gateway.get("/policies/versions/2/diff?to=1", key=gateway.admin)).expect(200)
    assert f"-{NONE}\n" in back["diff"]
    assert (await gateway.get("/policies/versions/2/diff?to=2", key=gateway.admin)).expect(200)["diff"] == ""
    default = (await gateway.get("/policies/versions/1/diff", key=gateway.admin)).expect(200)
    assert default["to_version"] == 0 and f"-{READS}\n" in default["diff"]
    (await gateway.get("/policies/versions/1/diff?to=3", key=gateway.admin)).expect(404)


@pytest.mark.parametrize("spelled", ["01", "+1", " 1", "1 ", "1.0", "1e0", "١", "-1", "0x1", "99999999999"])
async def test_a_version_has_one_spelling(gateway: Gateway, spelled: str) -> None:
    await put(gateway, READS)
    for path in (f"/policies/versions/{spelled}", f"/policies/versions/{spelled}/diff"):
        (await gateway.get(path.replace(" ", "%20").replace("+", "%2B"), key=gateway.admin)).expect(404)


async def test_another_workspace_s_versions_are_not_there(gateway: Gateway) -> None:
    theirs = await gateway.key("policies:manage", kind="person", workspace="other")
    await put(gateway, NONE, theirs)
    (await gateway.get("/policies/versions/1", key=theirs)).expect(200)
    (await gateway.get("/policies/versions/1", key=gateway.admin)).expect(404)
    (await gateway.get("/policies/versions/0/diff?to=1", key=gateway.admin)).expect(404)
    (await gateway.post("/policies/activate", {"version": 1}, key=gateway.admin)).expect(404)
    (await gateway.post("/policies/replay", {"version": 1}, key=gateway.admin)).expect(404)
    assert (await gateway.get("/policies", key=gateway.admin)).expect(200)["default"] is True


async def test_an_agent_reads_and_tries_but_changes_nothing(gateway: Gateway) -> None:
    agent = await gateway.key("policies:manage", "actions:preview", "actions:execute")
    for method, path, body in (
        ("PUT", "/policies", {"text": ALL}),
        ("POST", "/policies/activate", {"version": 0}),
    ):
        problem = (await gateway.call(method, path, key=agent, json=body)).expect(403)
        assert problem["detail"] == "Only a person can change policies."
    (await gateway.get("/policies", key=agent)).expect(200)
    (await gateway.post("/policies/explain", ECHO, key=agent)).expect(200)
    (await gateway.post("/policies/replay", {"text": ALL}, key=agent)).expect(200)
    assert (await gateway.get("/policies", key=gateway.admin)).expect(200)["version"] == 0


async def test_explain(gateway: Gateway) -> None:
    found = (await gateway.post("/policies/explain", ECHO, key=gateway.admin)).expect(200)
    assert (found["decision"], found["policies"]) == ("allow", ["reads"])
    assert (found["policy_id"], found["policy_version"]) == ("builtin:default", 0)
    mail = {"to": ["zoe@elsewhere.example"], "subject": "s", "text": "b"}
    await gateway.key("actions:execute", name="the agent")
    await gateway.key("chat", name="without")
    keys = (await gateway.get("/keys", key=gateway.admin)).expect(200)["items"]
    ids = {key["name"]: key["id"] for key in keys}
    asked = {"action": "email.send", "params": mail, "principal": ids["the agent"]}
    found = (await gateway.post("/policies/explain", asked, key=gateway.admin)).expect(200)
    assert (found["decision"], found["approvers"], found["policies"]) == ("require_approval", 1, ["approved-changes"])
    agreed = {**asked, "context": {"approvals": 1}}
    assert (await gateway.post("/policies/explain", agreed, key=gateway.admin)).expect(200)["decision"] == "allow"
    without = {**asked, "principal": ids["without"]}
    found = (await gateway.post("/policies/explain", without, key=gateway.admin)).expect(200)
    assert (found["decision"], found["policies"]) == ("deny", []) and "actions:execute" in found["reason"]
    await put(gateway, '@id("night") permit (principal, action, resource) when { context.time.hour < 6 };')
    for hour, decision in (("05", "allow"), ("06", "deny")):
        at = {**ECHO, "context": {"at": f"2030-01-02T{hour}:30:00Z"}}
        assert (await gateway.post("/policies/explain", at, key=gateway.admin)).expect(200)["decision"] == decision


@pytest.mark.parametrize(
    ("at", "year"),
    [
        ("0001-01-01T00:00:00Z", "0001"),
        ("0999-06-01T12:00:00+01:00", "0999"),
        ("9999-12-31T23:59:59.999999Z", "9999"),
        ("9999-12-31T23:59:59+23:59", "9999"),
    ],
)
async def test_explain_at_any_time_that_can_be_written(gateway: Gateway, at: str, year: str) -> None:
    first, last = f'datetime("{year}-01-01")', f'datetime("{year}-12-31T23:59:59.999Z")'
    spoken = f"context.time.now >= {first} && context.time.now <= {last}"
    await put(gateway, f'@id("then") permit (principal, action, resource) when {{ {spoken} }};')
    asked = {**ECHO, "context": {"at": at}}
    found = (await gateway.post("/policies/explain", asked, key=gateway.admin)).expect(200)
    assert (found["decision"], found["policies"]) == ("allow", ["then"])


async def test_what_cannot_be_explained(gateway: Gateway) -> None:
    await gateway.key("actions:execute", workspace="other", name="theirs")
    theirs = await gateway.house.api_keys.list("other")
    for changed, status, pointer in (
        ({"action": "no.such"}, 422, "/action"),
        ({"params": {}}, 422, "/params/message"),
        ({"principal": theirs.items[0].id}, 404, None),
        ({"principal": "key_0"}, 404, None),
        ({"principal": "a\0b"}, 404, None),
        ({"context": {"at": "yesterday"}}, 422, "/context/at"),
        ({"context": {"at": "2030-01-02T03:04:05"}}, 422, "/context/at"),
        ({"context": {"at": "9999-12-31T23:59:59-23:59"}}, 422, "/context/at"),
        ({"context": {"at": "0001-01-01T00:00:00+23:59"}}, 422, "/context/at"),
        ({"context": {"approved": True}}, 422, "/context/approved"),
        ({"context": {"approvals": "1"}}, 422, "/context/approvals"),
    ):
        problem = (await gateway.post("/policies/explain", {**ECHO, **changed}, key=gateway.admin)).expect(status)
        if pointer is not None:
            assert [error["pointer"] for error in problem["errors"]] == [pointer]
    before = len(await gateway.events())
    (await gateway.post("/policies/explain", ECHO, key=gateway.admin)).expect(200)
    assert len(await gateway.events()) == before


async def test_a_text_that_no_longer_checks_says_so_here(gateway: Gateway, target: Target) -> None:
    await put(gateway, READS)
    own(target, "UPDATE policy_versions SET text = 'permit'")
    gateway.house.database.generation.changed()
    found = (await gateway.get("/policies", key=gateway.admin)).expect(200)
    [problem] = found["problems"]
    assert (problem["line"], problem["column"]) == (1, 1) and "digest" in problem["reason"]
    explained = (await gateway.post("/policies/explain", ECHO, key=gateway.admin)).expect(200)
    assert explained["decision"] == "deny" and "GET /policies" in explained["reason"]
    await put(gateway, READS)
    assert (await gateway.get("/policies", key=gateway.admin)).expect(200)["problems"] == []


async def test_what_was_decided_is_replayed(gateway: Gateway) -> None:
    """The gate records; nobody can change who may run what without seeing what it would have meant."""
    done = (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
    (await gateway.post("/actions/preview", ECHO, key=gateway.admin)).expect(200)
    same = await replay(gateway, version=0)
    assert (same["replayed"], same["flips"], same["items"], same["truncated"]) == (2, 0, [], False)
    found = await replay(gateway, text=NONE, days=1)
    assert (found["flips"], found["transitions"]) == (2, [{"from": "allow", "to": "deny", "count": 2}])
    preview, executed = found["items"]
    assert (executed["action"], executed["kind"], executed["attempt_id"]) == (
        "relay.echo",
        "execute",
        done["attempt_id"],
    )
    assert (preview["kind"], preview["attempt_id"]) == ("preview", None)
    assert (executed["from"]["decision"], executed["from"]["policies"]) == ("allow", ["reads"])
    assert (executed["to"]["decision"], executed["to"]["policies"]) == ("deny", ["none"])
    assert executed["to"]["reason"] == 'Forbidden by "none".'


@pytest.mark.parametrize("body", [{}, {"text": ALL, "version": 1}, {"text": ALL, "days": 0}, {"version": -1}])
async def test_a_replay_wants_a_text_or_a_version(gateway: Gateway, body: dict[str, Any]) -> None:
    (await gateway.post("/policies/replay", body, key=gateway.admin)).expect(422)


async def test_an_activation_can_demand_a_replay(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", POLICY_REPLAY_REQUIRED="true") as gateway:
        answer = await gateway.call("PUT", "/policies", key=gateway.admin, json={"text": READS})
        problem = answer.expect(409)
        assert "POST /policies/replay" in problem["detail"]
        found = await replay(gateway, text=READS)
        assert found["digest"] == problem["digest"]
        await put(gateway, READS)
        own(target, ("UPDATE policy_replays SET expires_at = ?", (now(),)))
        (await gateway.call("PUT", "/policies", key=gateway.admin, json={"text": READS})).expect(409)


async def test_nothing_is_kept_where_retention_is_0(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", DECISION_RETENTION_DAYS="0") as gateway:
        (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).expect(200)
        assert own(target, "SELECT count(*) FROM decisions") == [(0,)]
        assert own(target, "SELECT count(*) FROM envelopes WHERE purpose = 'decision'") == [(0,)]
