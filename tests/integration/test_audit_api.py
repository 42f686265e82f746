"""The audit log over HTTP, on a running gateway."""

from typing import Any

import pytest

from relay.core.clock import iso, parse_iso
from tests.audit_kit import own, recorded, sample
from tests.gateway import Gateway
from tests.process import eventually


async def fill(gateway: Gateway) -> list[str]:
    drafts = [sample(number, target=f"att_{number}", details={"n": number}) for number in range(5)]
    drafts.append(sample(9, workspace_id="other"))
    await gateway.house.database.writer.run(lambda tx: recorded(tx, drafts))
    return [draft.id for draft in drafts]


async def test_the_workspace_is_listed_newest_first_page_by_page(gateway: Gateway) -> None:
    ids = await fill(gateway)
    key = await gateway.key("audit:read")
    first = (await gateway.get("/audit?limit=2&tag=gate:action:*", key=key)).expect(200)
    assert [item["id"] for item in first["items"]] == [ids[4], ids[3]]
    path = f"/audit?limit=2&tag=gate:action:*&cursor={first['next_cursor']}"
    second = (await gateway.get(path, key=key)).expect(200)
    assert [item["id"] for item in second["items"]] == [ids[2], ids[1]]
    item = first["items"][0]
    assert (item["details"], item["details_state"], item["target"]) == ({"n": 4}, "shown", "att_4")
    assert iso(parse_iso(item["occurred_at"])) == item["occurred_at"]
    assert {"seq", "prev_hash", "hash", "commitment", "digest", "decision", "outcome", "action"} <= item.keys()


async def test_another_workspaces_events_and_the_installations_are_not_there(gateway: Gateway) -> None:
    ids = await fill(gateway)
    mine = (await gateway.get("/audit?limit=200", key=gateway.admin)).expect(200)["items"]
    assert {item["workspace_id"] for item in mine} == {"default"}
    assert await gateway.events("relay:server:started"), "it was recorded all the same"
    theirs = await gateway.key("audit:read", workspace="other")
    items = (await gateway.get("/audit?tag=gate:*", key=theirs)).expect(200)["items"]
    assert [item["id"] for item in items] == [ids[5]]


async def test_filters_narrow_what_is_listed(gateway: Gateway) -> None:
    ids = await fill(gateway)

    async def found(query: str) -> list[str]:
        page = (await gateway.get(f"/audit?{query}", key=gateway.admin)).expect(200)
        return [item["id"] for item in page["items"]]

    assert await found("principal=key_3") == [ids[3]]
    assert await found("q=ATT_2") == [ids[2]]
    assert await found("tag=gate:action:intent&principal=key_3&q=att_2") == []
    assert await found("since=2999-01-01T00:00:00Z") == []
    assert ids[0] in await found("until=2999-01-01T02:00:00%2B02:00&tag=gate:action:intent")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=x", "/limit"),
        ("cursor=abc", "/cursor"),
        ("since=yesterday", "/since"),
        ("until=2030-01-01T00:00:00", "/until"),
        ("since=99999-01-01T00:00:00Z", "/since"),
        ("q=", "/q"),
        ("q=a%0Ab", "/q"),
        ("tag=" + "x" * 201, "/tag"),
        ("workspace_id=other", "/workspace_id"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_named(gateway: Gateway, query: str, pointer: str) -> None:
    answer = (await gateway.get(f"/audit?{query}", key=gateway.admin)).expect(422)
    assert [error["pointer"] for error in answer["errors"]] == [pointer]


@pytest.mark.parametrize("path", ["/audit", "/audit/verify"])
async def test_reading_needs_its_scope(gateway: Gateway, path: str) -> None:
    (await gateway.get(path)).expect(401)
    other = await gateway.key("actions:preview", "actions:execute", "keys:manage", kind="person")
    assert (await gateway.get(path, key=other)).expect(403)["required_scopes"] == ["audit:read"]


async def test_verification_says_that_the_log_holds_and_where_it_does_not(gateway: Gateway) -> None:
    await fill(gateway)
    found = (await gateway.get("/audit/verify", key=gateway.admin)).expect(200)
    rows = await gateway.events()
    assert found["ok"] is True and "problem" not in found
    assert (found["size"], found["head"]) == (len(rows), rows[-1]["hash"])
    parse_iso(found["checked_at"])
    last = rows[-1]["seq"]
    own(gateway.house.target, ("UPDATE audit_events SET outcome = 'succeeded' WHERE seq = ?", (last,)))

    async def found_out() -> Any:
        # As after an hour. A look that the server makes by itself may have begun before the change and end after this.
        gateway.house.verifier._verified = gateway.house.verifier._asked = None
        answer = (await gateway.get("/audit/verify", key=gateway.admin)).expect(200)
        return answer if answer["ok"] is False else None

    found = await eventually(found_out, 30.0)
    assert found["problem"]["seq"] == last
    assert found["size"] == last - 1
