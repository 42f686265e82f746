"""Webhooks from people who hold no secret, or the wrong one: nothing is stored, nothing is told, everything counts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.audit.anonymous import AnonymousFailures
from relay.core.ids import new_id
from relay.crypto.webhooks import SCHEMES, SIGNATURE_HEADERS, Scheme, new_secret, signed_headers
from relay.settings import SettingsError, load_settings
from relay.settings.safety import refusals, warnings
from relay.store.target import Target
from tests.gateway import Answer, Gateway, open_gateway
from tests.webhooks_kit import BODY, JSON_TYPE, Receiver, events_of, failures_of, make_receiver, soon

DETAIL = "This needs a valid webhook signature, and there is none."


def told(answer: Answer) -> tuple[Any, ...]:
    """Return everything of an answer that could tell two refusals apart."""
    body = {name: value for name, value in answer.json.items() if name not in ("instance", "request_id")}
    mine = ("x-request-id", "date", "content-length")
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name.lower() not in mine and "ratelimit" not in name.lower()
    }
    return answer.status, body, headers


async def send(gateway: Gateway, path: str, headers: dict[str, str], body: bytes = BODY) -> Answer:
    return await gateway.call("POST", path, data=body, headers={**headers, **JSON_TYPE})


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_every_refusal_looks_the_same(gateway: Gateway, scheme: Scheme) -> None:
    """Missing, wrong, stale, of another receiver, for one that is disabled or nowhere: one answer."""
    receiver, neighbour = await make_receiver(gateway, scheme), await make_receiver(gateway, scheme)
    off = await make_receiver(gateway, scheme)
    await gateway.call("PATCH", f"/webhooks/receivers/{off.id}", json={"enabled": False}, key=gateway.admin)
    good = receiver.headers()
    refused = {
        "no header": await send(gateway, receiver.path, {}),
        "another secret": await send(gateway, receiver.path, receiver.headers(secret=new_secret())),
        "another receiver's": await send(gateway, receiver.path, neighbour.headers()),
        "another body": await send(gateway, receiver.path, good, BODY + b" "),
        "truncated": await send(gateway, receiver.path, good, BODY[:-1]),
        "nowhere": await send(gateway, f"/webhooks/in/{new_id('rcv')}", good),
        "no id at all": await send(gateway, "/webhooks/in/' OR 1=1 --", good),
        "disabled": await send(gateway, off.path, off.headers()),
        "an API key": await gateway.call("POST", receiver.path, data=BODY, key=gateway.admin),
        "the installation's": await send(gateway, "/webhooks/relay", good)
        if gateway.house.target.kind == "sqlite"
        else await send(gateway, receiver.path, {}),
    }
    if scheme in ("standard", "stripe", "slack"):
        refused["late"] = await send(gateway, receiver.path, receiver.headers(late=302))
        refused["early"] = await send(gateway, receiver.path, receiver.headers(late=-330))
    first = told(refused["no header"])
    assert {about: told(answer) for about, answer in refused.items()} == dict.fromkeys(refused, first)
    assert first[0] == 401 and first[1]["detail"] == DETAIL and "signature" in DETAIL
    assert await events_of(gateway) == []
    assert await gateway.events("webhooks:event:received") == []
    (await send(gateway, receiver.path, good)).expect(200)


async def test_every_refusal_is_counted(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, str]] = []
    real = AnonymousFailures.count

    def count(self: AnonymousFailures, *, reason: str, route: str, client: str) -> None:
        counted.append((reason, route))
        real(self, reason=reason, route=route, client=client)

    monkeypatch.setattr(AnonymousFailures, "count", count)
    receiver = await make_receiver(gateway)
    for headers in (
        {},
        receiver.headers(secret=new_secret()),
        receiver.headers(late=400),
        receiver.headers() | {"webhook-id": "a.b"},
    ):
        assert (await send(gateway, receiver.path, headers)).status == 401
    assert (await send(gateway, "/webhooks/in/rcv_0", receiver.headers())).status == 401
    route = "/webhooks/in/{receiver}"
    reasons = ["signature_missing", "signature_mismatch", "signature_stale", "signature_malformed", "unknown_receiver"]
    assert counted == [(reason, route) for reason in reasons]


async def test_guessing_is_limited_and_the_real_sender_is_not(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data", RATE_LIMIT_CREDENTIALS_PER_5_MINUTES="3") as gateway:
        receiver = await make_receiver(gateway)
        statuses = [(await send(gateway, receiver.path, {})).status for _ in range(5)]
        statuses += [(await send(gateway, "/webhooks/in/rcv_0", {})).status]
        assert statuses == [401, 401, 401, 429, 429, 429]
        (await receiver.deliver()).expect(200)


async def test_a_flood_meets_the_limit_of_its_address(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        secret_of = await make_receiver(gateway)
        admin = gateway.admin
    async with open_gateway(target, tmp_path / "data", admin=admin, RATE_LIMIT_GLOBAL_PER_MINUTE="3") as gateway:
        receiver = Receiver(gateway, secret_of.id, secret_of.path, "standard", secret_of.secret)
        statuses = [(await receiver.deliver(id=f"msg_{number}")).status for number in range(5)]
        assert statuses == [200, 200, 200, 429, 429]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_header_changes_the_scheme(gateway: Gateway, scheme: Scheme) -> None:
    """The sender's own headers are stripped and those of every other scheme added, signed with the real secret."""
    receiver = await make_receiver(gateway, scheme)
    for other in SCHEMES:
        if other != scheme:
            headers = signed_headers(other, new_secret(), BODY, id="msg_1", timestamp=int(time.time()))
            headers |= {"X-Webhook-Version": "1"}
            assert (await send(gateway, receiver.path, headers)).status == 401
    # A secret that is good under every scheme: the strongest form of the same attempt.
    shared = new_secret()
    more = {"legacy_until": soon()} if scheme == "legacy" else {}
    made = await make_receiver(gateway, scheme, **more)
    body = {"secret": shared, "overlap_hours": 0}
    (await gateway.post(f"/webhooks/receivers/{made.id}/rotate", body, key=gateway.admin)).expect(200)
    for other in SCHEMES:
        headers = signed_headers(other, shared, BODY, id="msg_1", timestamp=int(time.time()))
        status = (await send(gateway, made.path, headers)).status
        assert status == (200 if other == scheme else 401), f"{other} at a {scheme} receiver"


async def test_signatures_that_are_no_ascii(gateway: Gateway) -> None:
    for scheme in SCHEMES:
        receiver = await make_receiver(gateway, scheme)
        headers = receiver.headers()
        for name in headers:
            for odd in (b"\xff\xfe", "é".encode(), b"v1,\xe9", b"sha256=\xff", b"", b"\x80" * 4000):
                lines = [
                    b"%b: %b" % (key.encode(), odd if key == name else value.encode()) for key, value in headers.items()
                ]
                head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (
                    receiver.path.encode(),
                    len(BODY),
                )
                answer = await gateway.raw(head + b"\r\n".join(lines) + b"\r\n\r\n" + BODY)
                assert answer.startswith(b"HTTP/1.1 401 "), (scheme, name, odd[:10], answer[:200])


async def test_many_signatures_and_huge_headers(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    good = receiver.headers()
    for about, signatures, status in (
        ("31 wrong before the right one", "v1,AAAA " * 31 + good["webhook-signature"], 200),
        ("32 wrong before it", "v1,AAAA " * 32 + good["webhook-signature"], 401),
        ("thousands", "v1,AAAA " * 2500, 401),
        ("one of 20,000 characters", "v1," + "A" * 20_000, 401),
    ):
        headers = {**good, "webhook-signature": signatures.strip()}
        assert (await send(gateway, receiver.path, headers)).status == status, about
    assert (await send(gateway, receiver.path, {**good, "webhook-id": "x" * 40_000})).status == 431


async def test_two_headers_of_one_name(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    headers = [*receiver.headers().items()]
    for doubled in headers:
        answer = await gateway.call("POST", receiver.path, data=BODY, headers=[*headers, doubled, *JSON_TYPE.items()])
        assert answer.status == 401


ANY_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(sorted(SIGNATURE_HEADERS | {b"content-type", b"content-encoding", b"x-github-event"})),
        st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\x00")),
    ),
    max_size=6,
)


async def test_nothing_that_is_sent_breaks_anything(sqlite_target: Target, tmp_path: Path) -> None:
    """Any headers, any body, through the whole HTTP surface: refused, and never a 500."""
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        paths = [(await make_receiver(gateway, scheme)).path for scheme in SCHEMES] + ["/webhooks/relay"]

        async def ask(path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
            head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (path.encode(), len(body))
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            return await gateway.raw(head + lines + b"\r\n" + body, seconds=30)

        import asyncio

        loop = asyncio.get_running_loop()

        @given(st.sampled_from(paths), ANY_HEADERS, st.binary(max_size=300))
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        def attempt(path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
            answer = asyncio.run_coroutine_threadsafe(ask(path, headers, body), loop).result(60)
            assert answer[:13] in (b"HTTP/1.1 401 ", b"HTTP/1.1 400 "), answer[:300]

        await asyncio.to_thread(attempt)
        assert await events_of(gateway) == []


async def test_nothing_that_is_signed_breaks_anything(sqlite_target: Target, tmp_path: Path) -> None:
    """Whatever a holder of the secret sends is stored, or is its sender's own fault."""
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        receivers = [await make_receiver(gateway, scheme) for scheme in SCHEMES]
        import asyncio

        loop = asyncio.get_running_loop()
        values = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
            max_leaves=12,
        )
        members = st.dictionaries(
            st.sampled_from(["type", "event", "id", "event_id", "challenge", "action", "command", "payload"]), values
        )
        bodies = st.one_of(
            st.binary(max_size=200),
            values.map(lambda value: json.dumps(value).encode()),
            members.map(lambda value: json.dumps(value).encode()),
        )
        kinds = st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain", "a/b+json"])

        @given(st.sampled_from(receivers), bodies, kinds)
        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        def attempt(receiver: Receiver, body: bytes, kind: str) -> None:
            sent = receiver.deliver(body, content_type=kind, id=new_id("msg"))
            answer = asyncio.run_coroutine_threadsafe(sent, loop).result(60)
            assert answer.status in (200, 400, 415), answer.body
            if answer.status == 200 and "id" in answer.json:
                path = f"/webhooks/events/{answer.json['id']}"
                shown = asyncio.run_coroutine_threadsafe(gateway.get(path, key=gateway.admin), loop).result(60)
                assert shown.status == 200, shown.body

        await asyncio.to_thread(attempt)


# Without a signature


UNSIGNED = {"RELAY_ENV": "local", "WEBHOOK_ALLOW_UNSIGNED": "true"}


async def test_unsigned_is_refused_unless_it_is_allowed(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV="local") as gateway:
        assert (await send(gateway, "/webhooks/relay", {})).status == 401


async def test_unsigned_is_taken_from_this_machine_and_said_so(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", **UNSIGNED) as gateway:
        receiver = await make_receiver(gateway)
        for path in ("/webhooks/relay", receiver.path):
            answer = (await send(gateway, path, {})).expect(200)
            assert answer["unsigned"] is True and answer["duplicate"] is False
            assert (await send(gateway, path, {})).expect(200)["duplicate"] is True
        assert all(event["unsigned"] for event in await events_of(gateway))
        # What nobody signed has not taken the place of what the sender will, even where the body tells copies.
        github = await make_receiver(gateway, "github")
        assert (await send(gateway, github.path, {})).expect(200)["unsigned"] is True
        for sender in (receiver, github):
            signed = (await sender.deliver()).expect(200)
            assert (signed["duplicate"], signed["unsigned"]) == (False, False)
        # A signature that is there and wrong is wrong all the same, and so is an address that is none.
        assert (await send(gateway, receiver.path, receiver.headers(secret=new_secret()))).status == 401
        assert (await send(gateway, receiver.path, {"X-Hub-Signature-256": "sha256=0"})).status == 401
        assert (await send(gateway, f"/webhooks/in/{new_id('rcv')}", {})).status == 401
        for headers in (
            {"Origin": "http://127.0.0.1:8000"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"Forwarded": "for=127.0.0.1"},
            {"Via": "1.1 proxy"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            assert (await send(gateway, receiver.path, headers, b'{"n":2}')).status == 401, headers


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RELAY_ENV": "production"}, "RELAY_ENV"),
        ({"RELAY_ENV": "test"}, "RELAY_ENV"),
        ({"RELAY_HOST": "0.0.0.0"}, "RELAY_HOST"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8"}, "TRUSTED_PROXIES"),
        ({"RELAY_PUBLIC_URL": "https://relay.example.com"}, "RELAY_PUBLIC_URL"),
    ],
)
def test_start_up_refuses_unsigned_webhooks_elsewhere(variables: dict[str, str], named: str, tmp_path: Path) -> None:
    loaded = load_settings({"RELAY_DATA_DIR": str(tmp_path), **UNSIGNED, **variables}, tmp_path)
    (problem,) = refusals(loaded)
    assert problem.startswith("WEBHOOK_ALLOW_UNSIGNED=true") and named in problem


def test_start_up_says_that_webhooks_need_no_signature(tmp_path: Path) -> None:
    loaded = load_settings({"RELAY_DATA_DIR": str(tmp_path), **UNSIGNED}, tmp_path)
    assert refusals(loaded) == []
    assert any(sentence.startswith("WEBHOOK_ALLOW_UNSIGNED=true") for sentence in warnings(loaded))


# The secret of /webhooks/relay


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WEBHOOK_SIGNING_SECRET": "short"}, "WEBHOOK_SIGNING_SECRET"),
        ({"WEBHOOK_SIGNING_SECRET": "whsec_relay-secret!relay-secret!relay"}, "WEBHOOK_SIGNING_SECRET"),
        ({"WEBHOOK_SIGNING_SECRET": "whsec_" + "A" * 43 + "="}, "WEBHOOK_SIGNING_SECRET"),
        ({"WEBHOOK_SIGNING_SECRET": "YOUR_SECRET_IS_LONG_ENOUGH_BUT_NONE"}, "WEBHOOK_SIGNING_SECRET"),
        ({"WEBHOOK_SIGNING_SECRET": "a" * 40}, "WEBHOOK_SIGNING_SECRET"),
        ({"WEBHOOK_SIGNING_SECRET": "kq83Hd02lsP4mX71vBz5TgR9wYc6NjFe"}, "WEBHOOK_LEGACY_UNTIL"),
        ({"WEBHOOK_LEGACY_UNTIL": "tomorrow"}, "WEBHOOK_LEGACY_UNTIL"),
        ({"WEBHOOK_LEGACY_UNTIL": "20301231"}, "WEBHOOK_LEGACY_UNTIL"),
        ({"WEBHOOK_LEGACY_UNTIL": "9999-12-31"}, "WEBHOOK_LEGACY_UNTIL"),
        ({"WEBHOOK_ALLOW_UNSIGNED": "yes"}, "WEBHOOK_ALLOW_UNSIGNED"),
    ],
)
def test_settings_that_are_refused(variables: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"RELAY_DATA_DIR": str(tmp_path), **variables}, tmp_path)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [named]
    assert variables.get("WEBHOOK_SIGNING_SECRET", "\0") not in str(refused.value)


def test_a_legacy_day_that_has_passed_is_said_at_start(tmp_path: Path) -> None:
    given = {"WEBHOOK_SIGNING_SECRET": "kq83Hd02lsP4mX71vBz5TgR9wYc6NjFe", "RELAY_DATA_DIR": str(tmp_path)}
    for day, said in (("2020-12-31", True), (soon(), False)):
        loaded = load_settings({**given, "WEBHOOK_LEGACY_UNTIL": day}, tmp_path)
        assert any(text.startswith("WEBHOOK_LEGACY_UNTIL has passed") for text in warnings(loaded)) == said


async def test_no_secret_is_in_any_answer_log_or_row(
    sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        receiver = await make_receiver(gateway)
        await receiver.deliver()
        await receiver.deliver(secret=new_secret())
        body = {"scheme": "standard", "secret": receiver.secret, "no_such_member": 1}
        refused = await gateway.post("/webhooks/receivers", body, key=gateway.admin)
        assert refused.status == 422
        seen = [refused.body, json.dumps(await gateway.events()).encode(), caplog.text.encode()]
        for path in ("/webhooks/receivers", "/webhooks/events", "/audit"):
            seen.append((await gateway.get(path, key=gateway.admin)).body)
        await failures_of(gateway)
    raw = b"".join(file.read_bytes() for file in (tmp_path).rglob("relay.db*"))
    assert len(raw) > 10_000
    assert receiver.secret.encode() not in b"".join([*seen, raw])
