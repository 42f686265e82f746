"""The locks around routes that admit by signature: the body is counted, read, verified, and only then anything else."""

import pytest
from pydantic import BaseModel, ConfigDict
from starlette.types import Message

from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import BadSignature, QuotaExceeded
from relay.core.signed import Evidence, Signed
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.gate.signature import VerifySignature
from relay.surface.application import build_application
from relay.surface.declare import Call, Routes, UndeclaredRoute
from tests.asgi import ask, scope_of
from tests.limits_kit import Failures, NoLimits

SIGNED = Access("signature", frozenset(), (), "api:test:receive")


class Said(BaseModel):
    text: str


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str


class Keys:
    async def authenticate(self, key_text: str, client: str = "") -> None:
        return None

    async def reload(self, credential_id: str) -> None:
        return None

    async def honey_action_used(self, principal: Principal, action: str, *, request_id: str, client: str) -> None:
        return None


class Signatures:
    """Verifies bodies that begin with ``good``."""

    async def verify(self, facts: RequestFacts, evidence: Evidence) -> Signed:
        body = await evidence.read()
        if not body.startswith(b"good"):
            raise BadSignature(reason="signature_mismatch")
        return Signed("w", str(evidence.parameters["receiver"]), "", "standard", body)


class Used(NoLimits):
    async def address(self, *_: object) -> None:
        raise QuotaExceeded("Used up.", policies=["global-ip"], retry_after=1)


def application(access: Access = SIGNED, *, limits: NoLimits | None = None, verify: bool = True):
    failures = Failures()
    checked = VerifySignature(Signatures(), failures) if verify else None
    gate = Gate(Authenticate(Keys(), failures), limits or NoLimits(), checked)
    routes = Routes()

    @routes.post("/in/{receiver}", access=access, body_limit=10)
    async def receive(call: Call, receiver: str) -> Said:
        return Said(text=f"{call.signed.receiver_id} {receiver} {call.signed.body.decode()}")

    _, asgi = build_application([routes], gate.admit, body_limit=1024, body_seconds=1.0)
    return asgi, failures


def body_of(body: bytes):
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def never() -> Message:
    raise AssertionError("the body was read")


async def test_the_handler_gets_what_was_verified() -> None:
    asgi, failures = application()
    heard = await ask(asgi, scope_of("POST", "/in/rcv_1"), body_of(b"good body"))
    assert (heard.status, heard.body) == (200, b'{"text":"rcv_1 rcv_1 good body"}')
    assert failures.counted == []


async def test_a_wrong_signature_is_counted_and_goes_no_further() -> None:
    asgi, failures = application()
    heard = await ask(asgi, scope_of("POST", "/in/rcv_1"), body_of(b"bad body"))
    assert heard.status == 401 and b"signature" in heard.body and b"mismatch" not in heard.body
    assert failures.counted == [("signature_mismatch", "/in/{receiver}", "127.0.0.1")]


async def test_the_body_is_capped_before_it_is_verified() -> None:
    asgi, _ = application()
    assert (await ask(asgi, scope_of("POST", "/in/rcv_1"), body_of(b"good body, too long"))).status == 413


async def test_the_address_is_counted_before_the_body_is_read() -> None:
    asgi, _ = application(limits=Used())
    assert (await ask(asgi, scope_of("POST", "/in/rcv_1"), never)).status == 429


async def test_a_gate_that_cannot_verify_stays_shut() -> None:
    asgi, _ = application(verify=False)
    assert (await ask(asgi, scope_of("POST", "/in/rcv_1"), body_of(b"good body"))).status == 500


async def test_no_other_route_has_a_signed_body() -> None:
    asgi, _ = application(Access("public", frozenset(), (), "api:test:public"))
    assert (await ask(asgi, scope_of("POST", "/in/rcv_1"), body_of(b"good body"))).status == 401


def test_a_signature_asks_for_no_scope() -> None:
    with pytest.raises(ValueError, match="scopes"):
        Access("signature", frozenset({"webhooks:manage"}), (), "api:test:receive")


def test_a_signed_body_is_not_read_again() -> None:
    routes = Routes()

    @routes.post("/in", access=SIGNED)
    async def receive(call: Call, body: Asked) -> Said:
        return Said(text=body.text)

    gate = Gate(Authenticate(Keys(), Failures()), NoLimits())
    with pytest.raises(UndeclaredRoute, match="signed"):
        build_application([routes], gate.admit, body_limit=1024, body_seconds=1.0)


def test_what_was_signed_is_in_no_repr() -> None:
    assert "canary" not in repr(Signed("w", "rcv_1", "", "standard", b"canary"))
