"""The default policy and the operator's baseline, over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from relay.settings import SettingsError
from relay.store.target import Target
from tests.gateway import Gateway, open_gateway
from tests.policy_kit import probe

EVERYTHING = {"email.send", "http.request", "relay.echo", "webhook.save", "probe.read", "probe.write", "probe.destroy"}


def mail(*to: str) -> dict[str, Any]:
    return {"action": "email.send", "params": {"to": list(to), "subject": "s", "text": "t"}}


async def previewed(gateway: Gateway, key: str, wish: dict[str, Any]) -> tuple[str, str]:
    answer = (await gateway.post("/actions/preview", wish, key=key)).expect(200)
    return answer["decision"], answer["reason"]


async def listed(gateway: Gateway, key: str) -> set[str]:
    return {action["name"] for action in (await gateway.get("/actions", key=key)).expect(200)["actions"]}


async def test_the_default_policy(target: Target, tmp_path: Path) -> None:
    settings = {"INTERNAL_DOMAINS": "internal.example"}
    async with open_gateway(target, tmp_path / "data", connectors=[(probe(), object())], **settings) as gateway:
        agent = await gateway.key("developer")
        person = await gateway.key("developer", kind="person")
        asks = ("require_approval", 'Needs the approval of a person: "approved-changes".')
        assert await previewed(gateway, agent, mail("ann@Internal.example")) == (
            "allow",
            'Allowed by "internal-writes".',
        )
        assert await previewed(gateway, agent, mail("ann@internal.example", "zoe@elsewhere.example")) == asks
        assert await previewed(gateway, person, mail("zoe@elsewhere.example")) == (
            "allow",
            'Allowed by "person-writes".',
        )
        assert await previewed(gateway, agent, {"action": "probe.read", "params": {}}) == (
            "allow",
            'Allowed by "reads".',
        )
        assert await previewed(gateway, person, {"action": "probe.destroy", "params": {}}) == asks
        assert (await previewed(gateway, agent, {"action": "probe.destroy", "params": {}}))[0] == "require_approval"
        # The door does what the preview says.
        done = (await gateway.post("/actions/execute", mail("ann@internal.example"), key=agent)).expect(200)
        assert done["status"] == "succeeded"
        waits = (await gateway.post("/actions/execute", mail("zoe@elsewhere.example"), key=agent)).expect(202)
        assert waits["status"] == "pending_approval"
        assert await listed(gateway, agent) == await listed(gateway, person) == {*EVERYTHING, "probe.blind"}


async def test_the_operator_s_baseline(sqlite_target: Target, tmp_path: Path) -> None:
    file = tmp_path / "baseline.cedar"
    file.write_text(
        '@id("no-mail") forbid(principal, action == Relay::Action::"email.send", resource);\n'
        '@id("not-from-here") forbid(principal, action, resource)\n'
        "when { context has client_address && context.client_address.isLoopback() && context.params has method };\n"
    )
    settings = {"POLICY_BASELINE_FILE": str(file)}
    async with open_gateway(sqlite_target, tmp_path / "data", **settings) as gateway:
        assert await listed(gateway, gateway.admin) == {"http.request", "relay.echo", "webhook.save"}
        wish = mail("ann@internal.example")
        assert await previewed(gateway, gateway.admin, wish) == ("deny", 'Forbidden by "no-mail" of the baseline.')
        problem = (await gateway.post("/actions/execute", wish, key=gateway.admin)).expect(403)
        assert problem["type"] == "urn:relay:problem:denied" and problem["detail"].endswith("of the baseline.")
        wish = {"action": "http.request", "params": {"method": "GET", "url": "https://elsewhere.example/"}}
        assert await previewed(gateway, gateway.admin, wish) == (
            "deny",
            'Forbidden by "not-from-here" of the baseline.',
        )


async def test_a_baseline_that_permits_keeps_relay_from_starting(sqlite_target: Target, tmp_path: Path) -> None:
    file = tmp_path / "baseline.cedar"
    file.write_text("permit(principal, action, resource);")
    with pytest.raises(SettingsError, match="the baseline forbids"):
        async with open_gateway(sqlite_target, tmp_path / "data", POLICY_BASELINE_FILE=str(file)):
            pass
