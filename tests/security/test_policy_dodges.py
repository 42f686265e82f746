"""What an action shows to policies cannot be dodged by another spelling, or by another field."""

from typing import Any

import pytest

from relay.catalog import Connector, Rendering
from relay.core.action import Step
from relay.core.circumstances import Circumstances
from relay.core.exposed import Exposed
from relay.core.permit import Permit
from relay.policy.context import inputs_of
from tests.policy_kit import REACH, Nothing, decided, inputs, step, who

NO_BOSS = """
permit(principal, action, resource);
forbid(principal, action, resource) when { context.recipients.contains("boss@xn--bcher-kva.example") };
forbid(principal, action, resource) when { context.hosts.containsAny(["rival.example", "192.0.2.1", "2001:db8::1"]) };
"""


@pytest.mark.parametrize(
    "address",
    [
        "boss@xn--bcher-kva.example",
        "BOSS@xn--bcher-kva.example",
        "Boss@XN--BCHER-KVA.EXAMPLE",
        "boss@bücher.example",
        "boss@BÜCHER.example",
    ],
)
@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_recipients(address: str, field: str) -> None:
    fields = {"to": ["other@example.com"], field: [address]}
    what = step("email.send", subject="s", text="t", **fields)
    assert decided(NO_BOSS, who("person"), what).effect == "deny"
    assert (
        decided(NO_BOSS, who("person"), step("email.send", to=["x@y.example"], subject="s", text="t")).effect == "allow"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://rival.example/",
        "HTTPS://RIVAL.Example:8443/x?y=z",
        "http://192.0.2.1/",
        "http://[2001:db8::1]/",
        "http://[2001:0DB8:0:0::1]:80/",
    ],
)
def test_hosts(url: str) -> None:
    for what in (
        step("http.request", method="GET", url=url),
        step("webhook.save", url=url, payload=None),
    ):
        assert decided(NO_BOSS, who("person"), what).effect == "deny"


def test_what_is_counted() -> None:
    what = step(
        "email.send",
        to=["a@b.example", "A@B.example"],
        cc=["a@b.example"],
        bcc=["c@b.example"],
        subject="s",
        text="é",
        html="<p>",
        attachments=[{"name": "a", "data": "QUJD"}],
    )
    shown = inputs(who(), what).context
    assert shown["recipients"] == ["a@b.example", "c@b.example"]
    assert shown["params"] == {"attachments": 1, "bytes": 2 + 3 + 3}
    request = step("http.request", method="POST", url="https://b.example:8443/x", json={"a": "é"})
    assert inputs(who(), request).context["params"] == {"bytes": 10, "method": "POST", "port": 8443, "scheme": "https"}
    request = step("http.request", method="DELETE", url="http://b.example/x")
    assert inputs(who(), request).context["params"] == {"bytes": 0, "method": "DELETE", "port": 80, "scheme": "http"}
    webhook = step("webhook.save", url="https://b.example/", payload={"b": [1, 2]})
    assert inputs(who(), webhook).context["params"] == {"bytes": 11, "method": "POST", "port": 443, "scheme": "https"}


def test_neither_contents_nor_secrets_are_shown() -> None:
    for what in (
        step("relay.echo", message="canary"),
        step("email.send", to=["a@b.example"], subject="canary", text="canary", html="canary"),
        step(
            "http.request",
            method="POST",
            url="https://b.example/canary?k=canary",
            headers={"x-a": "canary"},
            body="canary",
        ),
        step("webhook.save", url="https://b.example/canary", payload="canary"),
    ):
        assert b"canary" not in inputs(who(), what).encode()


def test_no_parameter_is_taken_for_a_fact() -> None:
    """An action whose own field is called like one of Relay's keeps it to itself."""

    class Sly(Exposed):
        approved: bool = True
        internal: bool = True
        approvals: int = 5

    def render(given: Step, client: Any) -> Rendering:
        return Rendering(summary="", body={})

    def expose(params: Nothing) -> Sly:
        return Sly()

    connector = Connector("sly")

    @connector.action("sly.act", effect="write", render=render, expose=expose)
    async def act(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Pretend."""
        return Nothing()

    spec = connector.actions["sly.act"]
    asked = inputs_of(who(), spec, Step("sly.act", 1, Nothing(), "n", "d"), Circumstances(0), REACH)
    assert asked.context["internal"] is False and "approved" not in asked.context
    assert asked.context["params"] == {"approved": True, "internal": True, "approvals": 5}


def test_what_an_action_exposes_must_be_what_it_declares() -> None:
    class Wider(Exposed):
        extra: str = "x"

    def render(given: Step, client: Any) -> Rendering:
        return Rendering(summary="", body={})

    def expose(params: Nothing) -> Exposed:
        return Wider()

    connector = Connector("wide")

    @connector.action("wide.act", effect="write", render=render, expose=expose)
    async def act(permit: Permit, params: Nothing, client: Any) -> Nothing:
        """Show another model."""
        return Nothing()

    spec = connector.actions["wide.act"]
    with pytest.raises(TypeError):
        inputs_of(who(), spec, Step("wide.act", 1, Nothing(), "n", "d"), Circumstances(0), REACH)
