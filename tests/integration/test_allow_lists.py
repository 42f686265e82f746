"""From where keys may be used: lists of workspaces and keys, by API and command line, at every door, on both stores."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.audit.anonymous import failure_counts
from relay.core.networks import allow_list
from relay.core.problem import Invalid
from relay.identity.operator import operator
from relay.identity.rules import checked_networks
from relay.store.database import Database
from relay.store.target import Target
from tests.gateway import Answer, Gateway, environment, open_gateway
from tests.keyring import open_keyring
from tests.process import GatewayProcess, eventually

INSIDE, OUTSIDE = "203.0.113.9", "198.51.100.7"
OFFICE = "203.0.113.0/24"
# The tests' own socket is the trusted proxy; the caller's address is what it says.
OPTIONS = {"TRUSTED_PROXIES": "127.0.0.1"}


@pytest.fixture
async def gateway(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data", **OPTIONS) as running:
        yield running


async def ask(gateway: Gateway, path: str, key: str, address: str, method: str = "GET", body: Any = None) -> Answer:
    return await gateway.call(method, path, key=key, json=body, headers={"X-Forwarded-For": address})


async def key_id(gateway: Gateway, key: str) -> str:
    principal = await gateway.house.api_keys.authenticate(key)
    assert principal is not None
    return principal.id


async def restrict(gateway: Gateway, what: str, networks: list[str], address: str = INSIDE, **more: Any) -> Answer:
    body = {"allowed_networks": networks, **more}
    return await ask(gateway, what, gateway.admin, address, "PUT", body)


# A workspace's list.


async def test_a_workspace_can_be_bound_to_networks(gateway: Gateway) -> None:
    other = await gateway.key("audit:read", workspace="other")
    agent = await gateway.key("audit:read")
    shown = (await ask(gateway, "/workspace/allowed-networks", gateway.admin, INSIDE)).expect(200)
    assert shown == {"allowed_networks": []}
    given = ["203.0.113.0/24", "2001:db8::/32", "192.0.2.1", "192.0.2.1/32"]
    set_to = (await restrict(gateway, "/workspace/allowed-networks", given)).expect(200)
    assert set_to == {"allowed_networks": ["203.0.113.0/24", "2001:db8::/32", "192.0.2.1/32"]}
    assert (await ask(gateway, "/workspace/allowed-networks", gateway.admin, INSIDE)).expect(200) == set_to
    for address in (INSIDE, "2001:db8:5::1", "192.0.2.1", f"::ffff:{INSIDE}"):
        (await ask(gateway, "/audit", agent, address)).expect(200)
    for address in (OUTSIDE, "2001:db9::1", "192.0.2.2", "127.0.0.1", "unknown"):
        refused = (await ask(gateway, "/audit", agent, address)).expect(403)
        assert refused["type"] == "urn:relay:problem:address-not-allowed"
        assert set(refused) == {"type", "title", "status", "detail", "instance", "request_id"}
        assert "203.0.113" not in refused["detail"] and OUTSIDE not in refused["detail"]
    (await ask(gateway, "/audit", other, OUTSIDE)).expect(200)
    (await restrict(gateway, "/workspace/allowed-networks", [])).expect(200)
    (await ask(gateway, "/audit", agent, OUTSIDE)).expect(200)


async def test_every_door_and_method_is_shut_alike(gateway: Gateway) -> None:
    (await restrict(gateway, "/workspace/allowed-networks", [OFFICE])).expect(200)
    for route in gateway.server.fastapi.routes:
        access = route.access  # type: ignore[attr-defined]
        if access.auth != "bearer":
            continue
        path = route.path_format.replace("{", "").replace("}", "")  # type: ignore[attr-defined]
        for method in route.methods:  # type: ignore[attr-defined]
            answer = await ask(gateway, path, gateway.admin, OUTSIDE, method)
            assert answer.expect(403)["type"] == "urn:relay:problem:address-not-allowed", (method, path)
    (await ask(gateway, "/version", gateway.admin, OUTSIDE)).expect(200)


async def test_a_stranger_with_a_wrong_key_learns_nothing(gateway: Gateway) -> None:
    (await restrict(gateway, "/workspace/allowed-networks", [OFFICE])).expect(200)
    (await ask(gateway, "/audit", gateway.admin[:-6] + "000000", OUTSIDE)).expect(401)


async def test_an_address_cannot_be_claimed_from_outside_the_proxies(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", TRUSTED_PROXIES="10.0.0.0/8") as gateway:
        lists = gateway.house.api_keys
        await lists.restrict_workspace(operator(), "default", [OFFICE], address=None, request_id="req_test_0001")
        for headers in ({"X-Forwarded-For": INSIDE}, {"Forwarded": f"for={INSIDE}"}, {"X-Real-IP": INSIDE}, {}):
            (await gateway.get("/audit", key=gateway.admin, headers=headers)).expect(403)


# Lock-out.


async def test_who_would_lock_herself_out_must_say_so(gateway: Gateway) -> None:
    own = f"/keys/{await key_id(gateway, gateway.admin)}/allowed-networks"
    for path in ("/workspace/allowed-networks", own):
        refused = (await restrict(gateway, path, [OFFICE], OUTSIDE)).expect(409)
        assert OUTSIDE in refused["detail"] and "lock_me_out" in refused["detail"]
        (await restrict(gateway, path, [OFFICE], "unknown")).expect(409)
        (await ask(gateway, "/audit", gateway.admin, OUTSIDE)).expect(200)
    assert await gateway.events("identity:workspace:restricted") == []
    (await restrict(gateway, "/workspace/allowed-networks", [OFFICE], OUTSIDE, lock_me_out=True)).expect(200)
    (await restrict(gateway, "/workspace/allowed-networks", [], OUTSIDE)).expect(403)
    (await restrict(gateway, "/workspace/allowed-networks", [], INSIDE)).expect(200)


async def test_restricting_another_key_locks_nobody_out(gateway: Gateway) -> None:
    agent = await gateway.key("audit:read")
    path = f"/keys/{await key_id(gateway, agent)}/allowed-networks"
    (await restrict(gateway, path, [OFFICE], OUTSIDE)).expect(200)
    (await ask(gateway, "/audit", agent, OUTSIDE)).expect(403)
    (await ask(gateway, "/audit", agent, INSIDE)).expect(200)


# A key's list.


async def test_both_lists_must_have_the_address(gateway: Gateway) -> None:
    body = {"scopes": ["audit:read"], "allowed_networks": [OFFICE, "198.51.100.0/24"]}
    made = (await ask(gateway, "/keys", gateway.admin, INSIDE, "POST", body)).expect(201)
    assert made["allowed_networks"] == [OFFICE, "198.51.100.0/24"]
    (await ask(gateway, "/audit", made["key"], OUTSIDE)).expect(200)
    (await ask(gateway, "/audit", made["key"], "192.0.2.1")).expect(403)
    (await restrict(gateway, "/workspace/allowed-networks", [OFFICE, "192.0.2.0/24"])).expect(200)
    statuses = {a: (await ask(gateway, "/audit", made["key"], a)).status for a in (INSIDE, OUTSIDE, "192.0.2.1")}
    assert statuses == {INSIDE: 200, OUTSIDE: 403, "192.0.2.1": 403}
    listed = (await ask(gateway, "/keys", gateway.admin, INSIDE)).expect(200)["items"][0]
    assert listed["allowed_networks"] == [OFFICE, "198.51.100.0/24"]


async def test_a_bound_key_cannot_free_itself(gateway: Gateway) -> None:
    body = {"scopes": ["keys:manage", "audit:read"], "kind": "person", "allowed_networks": [OFFICE]}
    bound = (await ask(gateway, "/keys", gateway.admin, INSIDE, "POST", body)).expect(201)
    free = (await ask(gateway, "/keys", gateway.admin, INSIDE, "POST", {"scopes": ["audit:read"]})).expect(201)

    async def by_bound(method: str, path: str, body: Any = None) -> Answer:
        return await ask(gateway, path, bound["key"], INSIDE, method, body)

    for key in (bound, free):
        for wider in ([], ["0.0.0.0/0"], [OFFICE, OUTSIDE], ["203.0.112.0/23"], ["::/0"]):
            answer = await by_bound("PUT", f"/keys/{key['id']}/allowed-networks", {"allowed_networks": wider})
            assert answer.status == 403, wider
    (await by_bound("POST", f"/keys/{free['id']}/rotate")).expect(403)
    for wider in (["0.0.0.0/0"], [OFFICE, OUTSIDE]):
        (await by_bound("POST", "/keys", {"scopes": ["audit:read"], "allowed_networks": wider})).expect(403)
    # What it makes is bound as it is itself, or more narrowly.
    child = (await by_bound("POST", "/keys", {"scopes": ["audit:read"]})).expect(201)
    assert child["allowed_networks"] == [OFFICE]
    narrow = {"scopes": ["audit:read"], "allowed_networks": ["203.0.113.8/30"]}
    assert (await by_bound("POST", "/keys", narrow)).expect(201)["allowed_networks"] == ["203.0.113.8/30"]
    successor = (await by_bound("POST", f"/keys/{bound['id']}/rotate", {"overlap_hours": 0})).expect(200)
    assert successor["allowed_networks"] == [OFFICE]
    (await ask(gateway, "/audit", successor["key"], OUTSIDE)).expect(403)
    (await ask(gateway, "/audit", child["key"], OUTSIDE)).expect(403)


async def test_an_agent_restricts_no_person_and_no_workspace(gateway: Gateway) -> None:
    agent = await gateway.key("keys:manage", "workspace:admin")
    admin = await key_id(gateway, gateway.admin)
    for path in (f"/keys/{admin}/allowed-networks", "/workspace/allowed-networks"):
        body = {"allowed_networks": ["192.0.2.1"], "lock_me_out": True}
        (await ask(gateway, path, agent, INSIDE, "PUT", body)).expect(403)
    (await ask(gateway, "/audit", gateway.admin, INSIDE)).expect(200)


async def test_scopes_and_workspaces(gateway: Gateway) -> None:
    weak = await gateway.key("audit:read", kind="person")
    foreign = await gateway.key("audit:read", workspace="other")
    body: dict[str, Any] = {"allowed_networks": []}
    (await ask(gateway, "/workspace/allowed-networks", weak, INSIDE, "PUT", body)).expect(403)
    (await ask(gateway, "/workspace/allowed-networks", weak, INSIDE)).expect(403)
    path = f"/keys/{await key_id(gateway, foreign)}/allowed-networks"
    (await restrict(gateway, path, [])).expect(404)


@pytest.mark.parametrize(
    "wrong",
    ["", "localhost", "203.0.113.1/24", "203.0.114.0/33", "*", "203.0.114", "::ffff:203.0.114.0/200", "a" * 60,
     "fe80::%eth0/64", "1.2.3.4/255.255.255.1", "１.2.3.4"],
)  # fmt: skip
def test_what_is_no_network_is_refused_by_its_place(wrong: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked_networks([OFFICE, wrong])
    assert refused.value.extensions["errors"][0]["pointer"] == "/allowed_networks/1"
    assert not wrong or wrong not in refused.value.detail


async def test_too_many_networks_are_refused(gateway: Gateway) -> None:
    many = [f"203.0.113.{number}" for number in range(101)]
    (await restrict(gateway, "/workspace/allowed-networks", many)).expect(422)


# Records, other processes, streams.


async def test_changes_are_audited_and_refusals_counted(gateway: Gateway) -> None:
    agent = await gateway.key("audit:read")
    own = await key_id(gateway, agent)
    (await restrict(gateway, f"/keys/{own}/allowed-networks", [OFFICE])).expect(200)
    (await restrict(gateway, "/workspace/allowed-networks", [OFFICE])).expect(200)
    admin = await key_id(gateway, gateway.admin)
    found = [
        (row["tag"], row["workspace_id"], row["principal"], row["target"])
        for row in await gateway.events()
        if row["tag"].endswith(":restricted")
    ]
    assert found == [
        ("identity:key:restricted", "default", admin, own),
        ("identity:workspace:restricted", "default", admin, "default"),
    ]
    page = (await ask(gateway, "/audit?tag=identity:workspace:restricted", gateway.admin, INSIDE)).expect(200)
    assert page["items"][0]["details"] == {"before": [], "after": [OFFICE]}


async def test_refusals_are_counted_without_filling_the_log(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", **OPTIONS) as gateway:
        (await restrict(gateway, "/workspace/allowed-networks", [OFFICE])).expect(200)
        before = len(await gateway.events())
        for _ in range(3):
            (await ask(gateway, "/audit", gateway.admin, OUTSIDE)).expect(403)
        assert len(await gateway.events()) == before
    database = Database(target, lambda tx, drafts: None)
    await database.start()
    counts = await failure_counts(database.reader, 10)
    await database.stop()
    assert [(c.reason, c.route, c.block, c.count) for c in counts] == [
        ("address_not_allowed", "/audit", "198.51.100.0/24", 3)
    ]


async def test_a_change_by_another_process_holds_within_a_second(target: Target) -> None:
    async with open_keyring(target) as one, open_keyring(target) as other:
        record, text = await one.make("audit:read")
        found = await other.api_keys.authenticate(text)
        assert found is not None and found.allowed_from is None
        for change in (
            one.api_keys.restrict_key(operator(), record.id, [OFFICE], address=None, request_id="req_test_0001"),
            one.api_keys.restrict_workspace(operator(), "default", [OFFICE], address=None, request_id="req_test_0001"),
        ):
            before = (await other.api_keys.authenticate(text)).allowed_from
            await change
            own = await one.api_keys.authenticate(text)
            assert own is not None and own.allowed_from is not None and not own.allowed_from.admits(OUTSIDE)
            until = time.monotonic() + 1.5
            while (await other.api_keys.authenticate(text)).allowed_from == before:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)


async def test_what_a_key_has_started_goes_on(gateway: Gateway) -> None:
    agent = await gateway.key("actions:preview", "actions:execute")
    own = await key_id(gateway, agent)
    (await restrict(gateway, f"/keys/{own}/allowed-networks", [OFFICE])).expect(200)
    steps = {"steps": [{"action": "relay.echo", "params": {"message": "hello"}}]}
    run = (await ask(gateway, "/ai/execute", agent, INSIDE, "POST", steps)).expect(202)["run_id"]
    (await ask(gateway, f"/ai/jobs/{run}", agent, OUTSIDE)).expect(403)

    async def ended() -> Any:
        state = (await ask(gateway, f"/ai/jobs/{run}", agent, INSIDE)).expect(200)
        return state["status"] not in ("queued", "running") and state

    assert (await eventually(ended))["status"] == "succeeded"


def test_an_unknown_address_is_admitted_by_no_list() -> None:
    listed = allow_list([OFFICE], [])
    assert listed is not None
    assert [listed.admits(text) for text in ("", "unix:", "203.0.113", INSIDE)] == [False, False, False, True]
    assert allow_list([], []) is None


# The command line.


async def test_the_command_line_restricts_beside_a_running_server(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", **OPTIONS) as gateway:
        beside = GatewayProcess(tmp_path / "home", env=environment(target, tmp_path / "data"))
        beside.home.mkdir()
        beside.data = tmp_path / "data"
        agent = await gateway.key("audit:read")
        own = await key_id(gateway, agent)
        ended = await beside.command("key", "allow", own, OFFICE, "--json")
        assert ended.returncode == 0 and f'"{OFFICE}"' in ended.stdout, ended.stderr
        await asyncio.sleep(1.1)
        assert (await ask(gateway, "/audit", agent, OUTSIDE)).status == 403
        ended = await beside.command("key", "allow", own, "--any")
        assert ended.returncode == 0 and "any network" in ended.stdout
        ended = await beside.command("workspace", "allow", "default", "198.51.100.0/24")
        assert ended.returncode == 0, ended.stderr
        await asyncio.sleep(1.1)
        statuses = [(await ask(gateway, "/audit", agent, address)).status for address in (OUTSIDE, INSIDE)]
        assert statuses == [200, 403]
        for wrong, status in (
            (("key", "allow", own), 2),
            (("key", "allow", own, OFFICE, "--any"), 2),
            (("key", "allow", own, "nonsense"), 2),
            (("key", "allow", "key_" + "0" * 32, "--any"), 1),
            (("workspace", "allow", "nowhere", OFFICE), 1),
        ):
            ended = await beside.command(*wrong)
            assert ended.returncode == status, (wrong, ended.stderr)
