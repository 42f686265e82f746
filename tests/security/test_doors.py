"""A door beside API keys opens the routes that name it and no other, and no route names one by mistake."""

import base64
from typing import Any

import pytest

from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import InsufficientScope, Unauthenticated
from relay.crypto.api_key import new_api_key
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.identity.chat import ChatDoor
from relay.settings import Settings, load_settings
from relay.surface.application import build_application
from relay.surface.declare import Call, Routes
from relay.surface.seal import Unsealed
from tests.limits_kit import NoLimits

KEY = base64.b64encode(bytes(range(64, 100))).decode().rstrip("=")
CHAT = Access("bearer", frozenset({"chat"}), (), "api:chat:test", frozenset({"chat"}))
PLAIN = Access("bearer", frozenset({"chat"}), (), "api:chat:test")
DECIDE = Access("bearer", frozenset({"chat", "approvals:decide"}), (), "api:chat:test", frozenset({"chat"}))
LOCAL = {"RELAY_ENV": "local", "CHAT_PILOT_MODE": "true"}


class Keys:
    """API keys, of which there is one."""

    def __init__(self) -> None:
        self.text = new_api_key("test")
        self.refused: list[str] = []
        self.standing: dict[str, Principal] = {}

    async def authenticate(self, key_text: str, client: str = "") -> Principal | None:
        held = frozenset({"chat"})
        person = Principal("key_0", "person", "default", held, "key_0", (), "api_key")
        return person if key_text == self.text else None

    async def reload(self, credential_id: str) -> Principal | None:
        return self.standing.get(credential_id)

    async def honey_action_used(self, principal: Principal, action: str, *, request_id: str, client: str) -> None:
        return None

    def count(self, *, reason: str, route: str, client: str) -> None:
        self.refused.append(reason)


def settings(**more: str) -> Settings:
    return load_settings({"RELAY_ENV": "test", "CHAT_API_KEY": KEY, **more})


def gate_of(found: Settings, keys: Keys | None = None) -> Gate:
    keys = keys or Keys()
    keys.standing = {principal.credential_id: principal for principal in ChatDoor(found).standing}
    return Gate(Authenticate(keys, keys, doors={"chat": ChatDoor(found)}), NoLimits())


def asking(*headers: tuple[bytes, bytes], peer: str = "127.0.0.1") -> RequestFacts:
    return RequestFacts("req_test", peer, "POST", [(b"host", b"localhost:8000"), *headers], peer=peer)


def with_key(text: str = KEY) -> RequestFacts:
    return asking((b"x-api-key", text.encode()))


async def principal_of(gate: Gate, facts: RequestFacts, access: Access = CHAT) -> Principal:
    principal = (await gate.admit(access, facts)).principal
    assert principal is not None
    return principal


@pytest.mark.parametrize(
    "facts",
    [with_key(), asking((b"authorization", b"Bearer " + KEY.encode())), asking((b"x-api-key", b"\t" + KEY.encode()))],
)
async def test_the_chat_key_is_the_service_principal_chat(facts: RequestFacts) -> None:
    who = await principal_of(gate_of(settings(CHAT_WORKSPACE="support", CHAT_SCOPES="chat actions:execute")), facts)
    assert (who.id, who.kind, who.workspace_id) == ("chat", "service", "support")
    assert (who.credential_id, who.auth_method, who.made_by) == ("chat", "chat_key", ())
    assert who.scopes == {"chat", "actions:execute"}


async def test_by_default_it_may_chat_and_preview() -> None:
    who = await principal_of(gate_of(settings()), with_key())
    assert who.workspace_id == "default" and who.scopes == {"chat", "actions:preview"}


async def test_it_opens_no_route_that_does_not_name_the_door() -> None:
    with pytest.raises(Unauthenticated):
        await gate_of(settings()).admit(PLAIN, with_key())


async def test_it_has_no_scope_for_decisions() -> None:
    with pytest.raises(InsufficientScope) as refused:
        await gate_of(settings()).admit(DECIDE, with_key())
    assert refused.value.extensions["missing_scopes"] == ["approvals:decide"]


WRONG = {
    "a character less": KEY[:-1],
    "a character more": KEY + "A",
    "other case": KEY.swapcase(),
    "its beginning": KEY[:8],
    "another": KEY[::-1],
    "an API key": new_api_key("test"),
    "nothing like a key": "x",
}


@pytest.mark.parametrize("about", list(WRONG))
async def test_a_wrong_key_is_the_ordinary_401_and_is_counted_as_one(about: str) -> None:
    keys = Keys()
    refusals = []
    for found in (settings(), load_settings({"RELAY_ENV": "test"})):
        with pytest.raises(Unauthenticated) as refused:
            await gate_of(found, keys).admit(CHAT, with_key(WRONG[about]))
        refusals.append((refused.value.detail, refused.value.headers, refused.value.reason))
    assert refusals[0] == refusals[1], "it tells whether the installation has a chat key"
    assert keys.refused == ["invalid_token", "invalid_token"]


@pytest.mark.parametrize("text", ["", " ", "\t"])
async def test_no_key_and_an_empty_key_open_nothing(text: str) -> None:
    shut = load_settings({"RELAY_ENV": "test", "CHAT_API_KEY": ""})
    assert shut.chat_api_key is None
    for facts in (asking(), with_key(text)):
        with pytest.raises(Unauthenticated):
            await gate_of(shut).admit(CHAT, facts)


async def test_an_api_key_still_opens_the_chat_as_itself() -> None:
    keys = Keys()
    assert (await principal_of(gate_of(settings(), keys), with_key(keys.text))).id == "key_0"


async def test_two_credentials_that_differ_are_none() -> None:
    keys = Keys()
    gate = gate_of(settings(), keys)
    for bearer, header in ((KEY, keys.text), (keys.text, KEY)):
        facts = asking((b"authorization", b"Bearer " + bearer.encode()), (b"x-api-key", header.encode()))
        with pytest.raises(Unauthenticated):
            await gate.admit(CHAT, facts)
    both = asking((b"authorization", b"Bearer " + KEY.encode()), (b"x-api-key", KEY.encode()))
    assert (await principal_of(gate, both)).id == "chat"


async def test_the_pilot_needs_no_key_on_this_machine() -> None:
    who = await principal_of(gate_of(load_settings(LOCAL)), asking())
    assert (who.id, who.kind) == ("chat", "service") and who.scopes == {"chat", "actions:preview"}


async def test_the_pilot_opens_no_other_route() -> None:
    with pytest.raises(Unauthenticated):
        await gate_of(load_settings(LOCAL)).admit(PLAIN, asking())


NOT_LOCAL: dict[str, RequestFacts] = {
    "a page of a browser": asking((b"origin", b"http://localhost:8000")),
    "another site": asking((b"sec-fetch-site", b"cross-site")),
    "a proxy": asking((b"x-forwarded-for", b"127.0.0.1")),
    "a proxy by RFC 7239": asking((b"forwarded", b"for=127.0.0.1")),
    "another machine": asking(peer="192.0.2.7"),
    "another host": asking((b"host", b"relay.example.com")),
    "a wrong key": with_key("x" * 40),
    "a cookie": asking((b"cookie", b"a=b")),
}


@pytest.mark.parametrize("about", list(NOT_LOCAL))
async def test_the_pilot_opens_to_nobody_who_may_come_from_elsewhere(about: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await gate_of(load_settings(LOCAL)).admit(CHAT, NOT_LOCAL[about])
    # Whoever tries the mode out learns why it does not let them in; whoever sends a key is told about that alone.
    assert ("CHAT_PILOT_MODE" in refused.value.detail) == (about != "a wrong key")


@pytest.mark.parametrize(
    "more",
    [
        {"RELAY_ENV": "production"},
        {"RELAY_ENV": "test"},
        {"CHAT_PILOT_MODE": "false"},
        {"RELAY_HOST": "0.0.0.0"},
        {"RELAY_PUBLIC_URL": "https://relay.example.com"},
        {"TRUSTED_PROXIES": "10.0.0.1"},
    ],
)
async def test_the_pilot_opens_under_its_settings_alone(more: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await gate_of(load_settings({**LOCAL, **more})).admit(CHAT, asking())
    pilot = more.keys() & {"RELAY_HOST", "RELAY_PUBLIC_URL", "TRUSTED_PROXIES"}
    assert ("CHAT_PILOT_MODE" in refused.value.detail) == bool(pilot)


def test_it_is_alive_where_the_door_is_open_and_nowhere_else() -> None:
    assert [who.id for who in ChatDoor(settings()).standing] == ["chat"]
    assert [who.id for who in ChatDoor(load_settings(LOCAL)).standing] == ["chat"]
    assert ChatDoor(load_settings({"RELAY_ENV": "test"})).standing == ()


@pytest.mark.parametrize("scopes", ["chat approvals:decide", "chat keys:manage", "actions:execute", "chat admin", "*"])
def test_its_scopes_are_never_those_of_a_person(scopes: str) -> None:
    with pytest.raises(Exception, match="CHAT_SCOPES"):
        load_settings({"RELAY_ENV": "test", "CHAT_SCOPES": scopes})


# Declared and sealed.


async def _answers(call: Call) -> Any: ...


@pytest.mark.parametrize(
    ("auth", "scopes"),
    [
        ("public", ()),
        ("operator", ()),
        ("signature", ()),
        ("session", ("chat",)),
        ("bearer", ()),
        ("bearer", ("docs",)),
    ],
)
def test_a_door_opens_no_route_without_its_scope(auth: Any, scopes: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="door"):
        Access(auth, frozenset(scopes), (), "api:test:read", frozenset({"chat"}))


@pytest.mark.parametrize("path", ["/actions", "/chatter", "/a/chat/", "/{chat}/"])
def test_a_door_opens_nothing_outside_its_own_path(path: str) -> None:
    routes = Routes()
    routes.get(path, access=CHAT)(_answers)
    with pytest.raises(Unsealed, match="door"):
        build_application([routes], gate_of(settings()).admit, body_limit=1024, body_seconds=1.0)


@pytest.mark.parametrize("path", ["/chat", "/chat/", "/chat/sessions"])
def test_a_door_opens_what_lies_under_its_path(path: str) -> None:
    routes = Routes()
    routes.get(path, access=CHAT)(_answers)
    build_application([routes], gate_of(settings()).admit, body_limit=1024, body_seconds=1.0)
