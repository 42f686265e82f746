"""Receiving webhooks over real HTTP, on both stores: what is verified is stored once, listed, recorded and purged."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlencode

import pytest
from sqlalchemy import func, select

from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.event import EventDraft
from relay.core.principal import SCOPES
from relay.crypto.webhooks import SCHEMES, Scheme, decode_secret, new_secret, new_secret_for, signed_headers
from relay.store.tables import envelopes
from relay.store.tables.webhooks_in import webhook_events, webhook_receipts, webhook_receiver_secrets
from relay.store.target import Target
from tests.gateway import Gateway, open_gateway
from tests.receivers import open_receiver
from tests.sending_kit import endpoint, sending, settled
from tests.webhooks_kit import BODY, JSON_TYPE, Receiver, events_of, make_receiver, soon


def own_headers(secret: str, body: bytes = BODY, id: str = "msg_1", scheme: Scheme = "standard") -> dict[str, str]:
    return signed_headers(scheme, secret, body, id=id, timestamp=int(time.time())) | JSON_TYPE


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_signed_event_is_stored_and_shown(gateway: Gateway, scheme: Scheme) -> None:
    receiver = await make_receiver(gateway, scheme)
    before = now()
    answer = (await receiver.deliver()).expect(200)
    assert answer == {"received": True, "id": answer["id"], "duplicate": False, "unsigned": False}
    shown = (await gateway.get(f"/webhooks/events/{answer['id']}", key=gateway.admin)).expect(200)
    assert shown["payload"] == json.loads(BODY) and shown["payload_state"] == "stored"
    assert (shown["receiver_id"], shown["scheme"], shown["type"]) == (receiver.id, scheme, "order.paid")
    assert shown["signed_id"] == ("msg_1" if scheme == "standard" else None)
    assert (shown["signed_at"] is not None) == (scheme in ("standard", "stripe", "slack"))
    assert (shown["size"], shown["unsigned"]) == (len(BODY), False)
    (row,) = await gateway.events("webhooks:event:received", target=answer["id"])
    assert (row["principal"], row["workspace_id"]) == (receiver.id, "default")
    assert row["occurred_at"] >= before


async def test_the_body_is_sealed_at_rest(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    body = b'{"type":"a","canary":"QUITE-SECRET-CANARY"}'
    (await receiver.deliver(body)).expect(200)
    rows = await gateway.house.database.reader.all(select(envelopes.c.purpose, envelopes.c.body))
    assert {"webhook_event", "webhook_receiver_secret"} <= {purpose for purpose, _ in rows}
    for _, sealed in rows:
        assert b"QUITE-SECRET-CANARY" not in bytes(sealed)
        assert receiver.secret.encode() not in bytes(sealed)


async def test_a_copy_is_answered_with_the_first_id(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    first = (await receiver.deliver()).expect(200)["id"]
    again = (await receiver.deliver(late=5)).expect(200)
    assert again == {"received": True, "id": first, "duplicate": True, "unsigned": False}
    other = (await receiver.deliver(id="msg_2")).expect(200)
    assert other["id"] != first and not other["duplicate"]
    assert [event["id"] for event in await events_of(gateway)] == [other["id"], first]
    assert len(await gateway.events("webhooks:event:received")) == 2


@pytest.mark.parametrize("scheme", ["legacy", "github"])
async def test_a_replay_under_another_unsigned_id_is_a_copy(gateway: Gateway, scheme: Scheme) -> None:
    receiver = await make_receiver(gateway, scheme)
    first = (await receiver.deliver(more={"X-GitHub-Delivery": "11111111-0000"})).expect(200)["id"]
    again = (await receiver.deliver(more={"X-GitHub-Delivery": "22222222-0000", "webhook-id": "msg_9"})).expect(200)
    assert (again["id"], again["duplicate"]) == (first, True)


@pytest.mark.parametrize(("scheme", "name"), [("stripe", "id"), ("slack", "event_id")])
async def test_an_event_id_in_the_signed_body_finds_copies(gateway: Gateway, scheme: Scheme, name: str) -> None:
    """Stripe sends an event again with other bytes: `pending_webhooks` has changed meanwhile."""
    receiver = await make_receiver(gateway, scheme)
    bodies = [json.dumps({name: "evt_1Nabc", "type": "x", "pending_webhooks": left}).encode() for left in (2, 1)]
    first = (await receiver.deliver(bodies[0])).expect(200)["id"]
    again = (await receiver.deliver(bodies[1])).expect(200)
    assert (again["id"], again["duplicate"]) == (first, True)
    assert (await events_of(gateway))[0]["signed_id"] == "evt_1Nabc"


async def test_two_receivers_do_not_share_receipts(gateway: Gateway) -> None:
    one, two = await make_receiver(gateway), await make_receiver(gateway)
    ids = {(await receiver.deliver()).expect(200)["id"] for receiver in (one, two)}
    assert len(ids) == 2


async def test_sixteen_twins_are_one_event(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    answers = [answer.expect(200) for answer in await asyncio.gather(*(receiver.deliver() for _ in range(16)))]
    assert len({answer["id"] for answer in answers}) == 1
    assert [answer["duplicate"] for answer in answers].count(False) == 1
    assert len(await events_of(gateway)) == 1
    assert len(await gateway.events("webhooks:event:received")) == 1


async def test_twins_at_two_processes_are_one_event(postgres_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_gateway(postgres_target, data) as one:
        receiver = await make_receiver(one)
        async with open_gateway(postgres_target, data, admin=one.admin) as two:
            for number in range(5):
                headers = receiver.headers(id=f"msg_{number}") | JSON_TYPE
                sent = [gate.call("POST", receiver.path, data=BODY, headers=headers) for gate in (one, two) * 4]
                answers = [answer.expect(200) for answer in await asyncio.gather(*sent)]
                assert len({answer["id"] for answer in answers}) == 1
                assert [answer["duplicate"] for answer in answers].count(False) == 1
            assert len(await events_of(two)) == 5
            (
                await two.call("PATCH", f"/webhooks/receivers/{receiver.id}", json={"enabled": False}, key=one.admin)
            ).expect(200)
            assert (await receiver.deliver(id="msg_late")).status == 401


async def test_a_receipt_is_forgotten_after_its_time(gateway: Gateway) -> None:
    timed, untimed = await make_receiver(gateway), await make_receiver(gateway, "github")
    for receiver in (timed, untimed):
        (await receiver.deliver()).expect(200)
    rows = await gateway.house.database.reader.all(
        select(webhook_receipts.c.receiver_id, webhook_receipts.c.expires_at)
    )
    kept = {receiver_id: round((expires - now()) / DAY) for receiver_id, expires in rows}
    assert kept == {timed.id: 7, untimed.id: 90}


async def test_an_expired_receipt_that_is_still_there_does_not_count(gateway: Gateway) -> None:
    from relay.store.received import Receipt

    receipts = [
        Receipt("rcv_x", "id:1", f"evt_{number}", expires) for number, expires in ((1, 100), (2, 300), (3, 500))
    ]

    async def take(receipt: Receipt, at: int) -> str | None:
        return await gateway.house.database.writer.run(lambda tx: receipt.take(tx, at))

    assert await take(receipts[0], 50) is None
    assert await take(receipts[1], 99) == "evt_1"
    assert await take(receipts[1], 100) is None
    assert await take(receipts[2], 200) == "evt_2"


async def test_what_has_had_its_time_is_purged(gateway: Gateway) -> None:
    from relay.store.retention import Purge

    receiver = await make_receiver(gateway)
    event_id = (await receiver.deliver()).expect(200)["id"]
    (await gateway.post(f"/webhooks/receivers/{receiver.id}/rotate", {"overlap_hours": 1}, key=gateway.admin)).expect(
        200
    )
    reader, purge = gateway.house.database.reader, Purge(gateway.house.database.writer)

    async def counts() -> list[int]:
        tables = (webhook_events, webhook_receipts, webhook_receiver_secrets, envelopes)
        queries = [select(func.count()).select_from(table) for table in tables]
        queries[-1] = queries[-1].where(envelopes.c.purpose.in_(["webhook_event", "webhook_receiver_secret"]))
        return [(await reader.all(query))[0][0] for query in queries]

    assert await counts() == [1, 1, 2, 3]
    await purge.once(now() + DAY)
    assert await counts() == [1, 1, 1, 2]
    await purge.once(now() + 8 * DAY)
    assert await counts() == [1, 0, 1, 2]
    await purge.once(now() + 31 * DAY)
    assert await counts() == [0, 0, 1, 1]
    (await gateway.get(f"/webhooks/events/{event_id}", key=gateway.admin)).expect(404)


async def test_an_erased_payload_is_shown_as_such(gateway: Gateway) -> None:
    from relay.store.envelopes import EnvelopeRepository

    receiver = await make_receiver(gateway)
    event_id = (await receiver.deliver()).expect(200)["id"]
    repository = EnvelopeRepository("default")
    await gateway.house.database.writer.run(lambda tx: repository.drop(tx, purpose="webhook_event", record_id=event_id))
    shown = (await gateway.get(f"/webhooks/events/{event_id}", key=gateway.admin)).expect(200)
    assert (shown["payload"], shown["payload_state"]) == (None, "erased")


async def test_events_come_in_pages_and_can_be_filtered(gateway: Gateway) -> None:
    one, two = await make_receiver(gateway), await make_receiver(gateway, "github")
    sent = []
    for number in range(5):
        body = json.dumps({"type": f"kind.{number % 2}", "n": number}).encode()
        sent.append((await one.deliver(body, id=f"msg_{number}")).expect(200)["id"])
    (await two.deliver(more={"X-GitHub-Event": "push"})).expect(200)
    first = (await gateway.get("/webhooks/events?limit=4", key=gateway.admin)).expect(200)
    rest = (await gateway.get(f"/webhooks/events?limit=4&cursor={first['next_cursor']}", key=gateway.admin)).expect(200)
    assert [len(first["items"]), len(rest["items"]), rest["next_cursor"]] == [4, 2, None]
    assert [item["id"] for item in [*first["items"], *rest["items"]]][1:] == sent[::-1]
    assert "payload" not in first["items"][0]
    assert [item["id"] for item in await events_of(gateway, "?type=kind.1")] == [sent[3], sent[1]]
    assert [item["type"] for item in await events_of(gateway, f"?receiver={two.id}")] == ["push"]


async def test_workspaces_do_not_see_one_another(gateway: Gateway) -> None:
    theirs = await gateway.key(*SCOPES, workspace="other")
    receiver = await make_receiver(gateway, key=theirs)
    event_id = (await receiver.deliver()).expect(200)["id"]
    assert await events_of(gateway) == []
    assert [event["id"] for event in await events_of(gateway, key=theirs)] == [event_id]
    (await gateway.get(f"/webhooks/events/{event_id}", key=gateway.admin)).expect(404)
    assert (await gateway.get("/webhooks/receivers", key=gateway.admin)).expect(200)["items"] == []
    for method, path in (("DELETE", ""), ("PATCH", ""), ("POST", "/rotate"), ("POST", "/test")):
        body = {"enabled": False} if method == "PATCH" else None
        answer = await gateway.call(method, f"/webhooks/receivers/{receiver.id}{path}", json=body, key=gateway.admin)
        assert answer.status == 404
    (await receiver.deliver(id="msg_2")).expect(200)


async def test_claimed_types(gateway: Gateway) -> None:
    github, slack = await make_receiver(gateway, "github"), await make_receiver(gateway, "slack")
    standard = await make_receiver(gateway)
    expected = []
    for number, (event, body, kind) in enumerate(
        [
            ("push", {}, "push"),
            ("issues", {"action": "opened"}, "issues.opened"),
            ("ping", {"zen": "Design for failure."}, "ping"),
            ("<script>", {"type": "from the body"}, "from the body"),
        ]
    ):
        sent = json.dumps({**body, "n": number}).encode()
        (await github.deliver(sent, more={"X-GitHub-Event": event})).expect(200)
        expected.append(kind)
    for called, shown in (
        ({"type": "event_callback", "event": {"type": "app_mention"}}, "app_mention"),
        ({"type": "block_actions"}, "block_actions"),
    ):
        (await slack.deliver(json.dumps(called).encode())).expect(200)
        expected.append(shown)
    odd_types: list = ["a\u001b[31m", "x" * 101, 7, None, {"a": 1}, ""]
    for number, odd in enumerate(odd_types):
        (await standard.deliver(json.dumps({"type": odd}).encode(), id=f"msg_{number}")).expect(200)
        expected.append(None)
    assert [event["type"] for event in await events_of(gateway)] == expected[::-1]


async def test_forms_of_github_and_slack(gateway: Gateway) -> None:
    github, slack = await make_receiver(gateway, "github"), await make_receiver(gateway, "slack")
    standard = await make_receiver(gateway)
    form = "application/x-www-form-urlencoded"
    payload = urlencode({"payload": json.dumps({"type": "block_actions", "é": "ü"})}).encode()
    command = urlencode({"command": "/deploy", "text": "now é", "token": ""}).encode()
    for receiver, body, value in (
        (github, payload, {"type": "block_actions", "é": "ü"}),
        (slack, payload, {"type": "block_actions", "é": "ü"}),
        (slack, command, {"command": "/deploy", "text": "now é", "token": ""}),
    ):
        event_id = (await receiver.deliver(body, content_type=form)).expect(200)["id"]
        assert (await gateway.get(f"/webhooks/events/{event_id}", key=gateway.admin)).expect(200)["payload"] == value
    for broken in (
        b"a=1&a=2",
        b"payload={",
        b"\xff=1",
        b"no form",
        b"",
        b"a=%ff",
        b"&".join(b"a%d=1" % number for number in range(300)),
    ):
        assert (await slack.deliver(broken, content_type=form)).status == 400
    assert (await standard.deliver(payload, content_type=form)).status == 415


async def test_slack_s_challenge_is_answered_once_it_is_signed(gateway: Gateway) -> None:
    slack = await make_receiver(gateway, "slack")
    body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1aB10FEMAGAZd4FyFQ", "token": "x"}).encode()
    assert (await slack.deliver(body)).expect(200) == {"challenge": "3eZbrw1aB10FEMAGAZd4FyFQ"}
    assert (await slack.deliver(body)).expect(200) == {"challenge": "3eZbrw1aB10FEMAGAZd4FyFQ"}
    assert (await gateway.call("POST", slack.path, data=body)).status == 401
    assert await events_of(gateway) == []
    standard = await make_receiver(gateway)
    assert "challenge" not in (await standard.deliver(body)).expect(200)


async def test_media_types_and_bodies_that_are_no_json(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    for number, kind in enumerate(("application/json; charset=UTF-8", "application/cloudevents+json")):
        (await receiver.deliver(content_type=kind, id=f"msg_{number}")).expect(200)
    for kind in ("text/plain", "application/json; charset=latin-1", "multipart/form-data", "application/xml", ""):
        assert (await receiver.deliver(content_type=kind, id="msg_8")).status == 415
    assert (await receiver.deliver(id="msg_8", more={"Content-Encoding": "gzip"})).status == 415
    for broken in (b"", b"{", b"\xff", b"{'a':1}", b'"\\ud800"', b"[" * 100_000):
        assert (await receiver.deliver(broken, id="msg_9")).status == 400
    assert len(await events_of(gateway)) == 2
    # What was refused has left no receipt: the id is still good.
    assert not (await receiver.deliver(id="msg_9")).expect(200)["duplicate"]


ODD_BODIES = {
    "a number beyond 2^53": b'{"a":123456789012345678901234567890}',
    "a NUL": b'{"type":"a\\u0000b"}',
    "32 levels": b"[" * 32 + b"]" * 32,
    "a scalar": b"7",
    "members twice": b'{"a":1,"a":2}',
    "many values": b"[" + b"1," * 100_000 + b"1]",
}


@pytest.mark.parametrize("about", ODD_BODIES)
async def test_odd_json_is_stored_and_shown(gateway: Gateway, about: str) -> None:
    receiver = await make_receiver(gateway)
    event_id = (await receiver.deliver(ODD_BODIES[about])).expect(200)["id"]
    (await gateway.get(f"/webhooks/events/{event_id}", key=gateway.admin)).expect(200)


async def test_the_size_is_capped_before_anything_is_verified(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    most = b'"' + b"x" * (256 * 1024 - 2) + b'"'
    (await receiver.deliver(most)).expect(200)
    assert (await receiver.deliver(most + b" ")).status == 413
    head = f"POST {receiver.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    assert (await gateway.raw(head.encode())).startswith(b"HTTP/1.1 413 ")


async def test_the_workspace_is_told(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts: list[EventDraft] = []
    finish = gateway.house.database.writer._finish

    def spy(tx, found) -> None:
        drafts.extend(draft for draft in found if draft.tag == "webhooks:event:received")
        finish(tx, found)

    monkeypatch.setattr(gateway.house.database.writer, "_finish", spy)
    receiver = await make_receiver(gateway)
    bodies = {
        "msg_1": BODY,
        "msg_2": b'{"n":123456789012345678901234567890}',
        "msg_3": b'{"a":"' + b"x" * 16_384 + b'"}',
        "msg_4": b'{"type":"webhook.received"}',
    }
    ids = [(await receiver.deliver(body, id=name)).expect(200)["id"] for name, body in bodies.items()]
    assert [draft.target for draft in drafts] == ids
    told = drafts[0].notice
    assert told is not None
    assert told.pop("received_at").endswith("Z")
    assert told == {
        "event_id": ids[0],
        "receiver_id": receiver.id,
        "receiver_name": "a standard sender",
        "scheme": "standard",
        "event_type": "order.paid",
        "unsigned": False,
        "payload": json.loads(BODY),
    }
    assert [draft.notice is not None and "payload" in draft.notice for draft in drafts] == [True, False, False, False]
    # Else an endpoint that leads back to a receiver would keep one event going round.
    assert drafts[3].notice is None


async def test_endpoints_hear_of_the_senders_types_that_they_ask_for(target: Target, tmp_path: Path) -> None:
    wanted = {
        "exact": ["webhook.received:order.paid"],
        "prefix": ["webhook.received:order.*"],
        "both": ["webhook.received", "webhook.received:order.*", "webhook.received:order.paid"],
        "named": ["webhook.received:*"],
        "other": ["webhook.received:invoice.paid", "key.created"],
    }
    async with AsyncExitStack() as stack:
        served = {name: await stack.enter_async_context(open_receiver()) for name in wanted}
        gateway = await stack.enter_async_context(sending(target, tmp_path))
        made = {name: await endpoint(gateway, served[name].url, *wanted[name]) for name in wanted}
        assert made["both"]["events"] == sorted(wanted["both"])
        elsewhere = await gateway.key("webhooks:manage", workspace="elsewhere")
        await endpoint(gateway, served["other"].url, "webhook.received:*", key=elsewhere)
        receiver = await make_receiver(gateway)
        for number, type in enumerate(("order.paid", "order.refunded", "orders.paid", None)):
            body = json.dumps({"n": number} if type is None else {"type": type})
            (await receiver.deliver(body.encode(), id=f"msg_{number}")).expect(200)
        (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
        await settled(gateway, 11, "succeeded")
        heard = {
            name: sorted(one.event["data"].get("event_type", "") for one in served[name].of("webhook.received"))
            for name in wanted
        }
        assert heard == {
            "exact": ["order.paid"],
            "prefix": ["order.paid", "order.refunded"],
            "both": ["", "order.paid", "order.refunded", "orders.paid"],
            "named": ["order.paid", "order.refunded", "orders.paid"],
            "other": [],
        }
        assert len(served["other"].received) == 1


# Managing receivers


@pytest.mark.parametrize("scheme", ["standard", "legacy", "github"])
async def test_a_secret_that_is_made_is_shown_once_and_works(gateway: Gateway, scheme: Scheme) -> None:
    body = {"scheme": scheme, **({"legacy_until": soon()} if scheme == "legacy" else {})}
    made = (await gateway.post("/webhooks/receivers", body, key=gateway.admin)).expect(201)
    headers = own_headers(made["secret"], scheme=scheme)
    (await gateway.call("POST", made["path"], data=BODY, headers=headers)).expect(200)
    listed = await gateway.get("/webhooks/receivers", key=gateway.admin)
    assert made["secret"].encode() not in listed.body
    item = listed.expect(200)["items"][0]
    assert item == {name: value for name, value in made.items() if name != "secret"}
    assert made["secret"] not in json.dumps(await gateway.events("webhooks:receiver:created"))


async def test_a_given_secret_is_not_repeated(gateway: Gateway) -> None:
    secret = new_secret_for("stripe")
    made = await gateway.post("/webhooks/receivers", {"scheme": "stripe", "secret": secret}, key=gateway.admin)
    assert made.expect(201)["secret"] is None
    assert secret.encode() not in made.body


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scheme": "stripe"}, "/secret"),
        ({"scheme": "slack"}, "/secret"),
        ({"scheme": "standard", "secret": "whsec_relay-secret!relay-secret!"}, "/secret"),
        ({"scheme": "standard", "secret": "a" * 64}, "/secret"),
        ({"scheme": "github", "secret": "It's a Secret to Everybody"}, "/secret"),
        ({"scheme": "github", "secret": "k" * 64}, "/secret"),
        ({"scheme": "legacy"}, "/legacy_until"),
        ({"scheme": "legacy", "legacy_until": soon(0)}, "/legacy_until"),
        ({"scheme": "legacy", "legacy_until": soon(367)}, "/legacy_until"),
        ({"scheme": "standard", "legacy_until": soon()}, "/legacy_until"),
        ({"scheme": "none"}, "/scheme"),
        ({"scheme": "standard", "name": "a\u001b[31m"}, "/name"),
    ],
)
async def test_receivers_that_are_not_made(gateway: Gateway, body: dict, pointer: str) -> None:
    answer = await gateway.post("/webhooks/receivers", body, key=gateway.admin)
    assert [error["pointer"] for error in answer.expect(422)["errors"]] == [pointer]
    assert body.get("secret", "\0").encode() not in answer.body
    assert (await gateway.get("/webhooks/receivers", key=gateway.admin)).expect(200)["items"] == []


async def test_rotation_overlaps_and_ends(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = await make_receiver(gateway)
    path = f"/webhooks/receivers/{receiver.id}"
    made = (await gateway.post(f"{path}/rotate", {"overlap_hours": 1}, key=gateway.admin)).expect(200)
    assert [secret["ends_at"] is None for secret in made["secrets"]] == [False, True]
    (await receiver.deliver(id="msg_1")).expect(200)
    (await receiver.deliver(id="msg_2", secret=made["secret"])).expect(200)
    later = now() + 3601 * MICROSECONDS
    monkeypatch.setattr("relay.webhooks.receive.now", lambda: later)
    assert (await receiver.deliver(id="msg_3", late=-3601)).status == 401
    (await receiver.deliver(id="msg_4", late=-3601, secret=made["secret"])).expect(200)
    monkeypatch.undo()
    last = (await gateway.post(f"{path}/rotate", {"overlap_hours": 0}, key=gateway.admin)).expect(200)
    assert len(last["secrets"]) == 1
    for secret in (receiver.secret, made["secret"]):
        assert (await receiver.deliver(id="msg_5", secret=secret)).status == 401
    (await receiver.deliver(id="msg_5", secret=last["secret"])).expect(200)


async def test_at_most_five_secrets_live_at_once(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    path = f"/webhooks/receivers/{receiver.id}/rotate"
    for _ in range(4):
        (await gateway.post(path, key=gateway.admin)).expect(200)
    (await receiver.deliver()).expect(200)
    (await gateway.post(path, key=gateway.admin)).expect(409)
    assert len((await gateway.post(path, {"overlap_hours": 0}, key=gateway.admin)).expect(200)["secrets"]) == 1


async def test_rotation_wants_the_sender_s_secret_where_there_is_one(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway, "slack")
    path, fresh = f"/webhooks/receivers/{receiver.id}/rotate", new_secret_for("slack")
    (await gateway.post(path, key=gateway.admin)).expect(422)
    assert (await gateway.post(path, {"secret": fresh}, key=gateway.admin)).expect(200)["secret"] is None
    (await receiver.deliver(secret=fresh)).expect(200)


async def test_disabled_and_deleted_receivers_accept_nothing(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    path = f"/webhooks/receivers/{receiver.id}"
    changed = await gateway.call("PATCH", path, json={"enabled": False, "name": "off"}, key=gateway.admin)
    assert (changed.expect(200)["enabled"], changed.json["name"]) == (False, "off")
    assert (await receiver.deliver()).status == 401
    (await gateway.post(f"{path}/test", key=gateway.admin)).expect(409)
    (await gateway.call("PATCH", path, json={"enabled": True}, key=gateway.admin)).expect(200)
    event_id = (await receiver.deliver()).expect(200)["id"]
    (await gateway.call("DELETE", path, key=gateway.admin)).expect(200)
    assert (await receiver.deliver(id="msg_2")).status == 401
    (await gateway.call("DELETE", path, key=gateway.admin)).expect(404)
    (await gateway.get(f"/webhooks/events/{event_id}", key=gateway.admin)).expect(200)
    reader = gateway.house.database.reader
    left = await reader.all(select(envelopes.c.record_id).where(envelopes.c.purpose == "webhook_receiver_secret"))
    assert left == []
    tags = [row["tag"] for row in await gateway.events(target=receiver.id)]
    assert tags == [f"webhooks:receiver:{what}" for what in ("created", "changed", "changed", "deleted")]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_receiver_can_be_tried_out(gateway: Gateway, scheme: Scheme) -> None:
    receiver = await make_receiver(gateway, scheme)
    found = [
        (await gateway.post(f"/webhooks/receivers/{receiver.id}/test", key=gateway.admin)).expect(200) for _ in range(2)
    ]
    assert [answer["duplicate"] for answer in found] == [False, False]
    shown = (await gateway.get(f"/webhooks/events/{found[0]['id']}", key=gateway.admin)).expect(200)
    assert (shown["type"], shown["receiver_id"]) == ("webhook.test", receiver.id)
    (made,) = await gateway.events("webhooks:receiver:created")
    asked = await gateway.events("webhooks:event:received")
    assert made["principal"].startswith("key_") and {row["principal"] for row in asked} == {made["principal"]}


async def test_the_legacy_scheme_ends_with_its_day(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = await make_receiver(gateway, "legacy", legacy_until=soon(3))
    (await receiver.deliver()).expect(200)
    end = (now() // DAY + 4) * DAY
    monkeypatch.setattr("relay.webhooks.receive.now", lambda: end - 1)
    (await receiver.deliver(b"1")).expect(200)
    monkeypatch.setattr("relay.webhooks.receive.now", lambda: end)
    assert (await receiver.deliver(b"2")).status == 401
    monkeypatch.undo()
    path = f"/webhooks/receivers/{receiver.id}"
    moved = await gateway.call("PATCH", path, json={"legacy_until": soon(5)}, key=gateway.admin)
    assert moved.expect(200)["legacy_until"] == soon(5)
    monkeypatch.setattr("relay.webhooks.receive.now", lambda: end)
    (await receiver.deliver(b"3")).expect(200)


# /webhooks/relay


async def test_the_generated_secret_opens_the_installation_s_own_way_in(sqlite_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = data / "keys" / "webhook_signing_secret"
    async with open_gateway(sqlite_target, data) as gateway:
        secret = file.read_text().strip()
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(decode_secret(secret)) == 32
        found = await gateway.call("POST", "/webhooks/relay", data=BODY, headers=own_headers(secret))
        (event,) = await events_of(gateway)
        assert (event["id"], event["receiver_id"]) == (found.expect(200)["id"], "relay")
        assert (
            await gateway.call("POST", "/webhooks/relay", data=BODY, headers=own_headers(new_secret()))
        ).status == 401
        admin = gateway.admin
    async with open_gateway(sqlite_target, data, admin=admin) as gateway:
        assert file.read_text().strip() == secret
        again = await gateway.call("POST", "/webhooks/relay", data=BODY, headers=own_headers(secret))
        assert again.expect(200)["duplicate"] is True


async def test_without_a_secret_a_shared_database_answers_503(postgres_target: Target, tmp_path: Path) -> None:
    async with open_gateway(postgres_target, tmp_path / "data") as gateway:
        for headers in (own_headers(new_secret()), JSON_TYPE):
            answer = await gateway.call("POST", "/webhooks/relay", data=BODY, headers=headers)
            assert "WEBHOOK_SIGNING_SECRET" in answer.expect(503)["detail"]
    secret = new_secret()
    async with open_gateway(postgres_target, tmp_path / "data", WEBHOOK_SIGNING_SECRET=secret) as gateway:
        (await gateway.call("POST", "/webhooks/relay", data=BODY, headers=own_headers(secret))).expect(200)


async def test_a_legacy_secret_is_taken_until_its_day(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = new_secret_for("legacy")
    settings = {"WEBHOOK_SIGNING_SECRET": secret, "WEBHOOK_LEGACY_UNTIL": soon(0)}
    async with open_gateway(sqlite_target, tmp_path / "data", **settings) as gateway:
        headers = own_headers(secret, scheme="legacy")
        (await gateway.call("POST", "/webhooks/relay", data=BODY, headers=headers)).expect(200)
        assert (
            await gateway.call("POST", "/webhooks/relay", data=BODY, headers=own_headers(new_secret()))
        ).status == 401
        tomorrow = (now() // DAY + 1) * DAY
        monkeypatch.setattr("relay.webhooks.receive.now", lambda: tomorrow)
        assert (await gateway.call("POST", "/webhooks/relay", data=BODY, headers=headers)).status == 401


def nested(levels: int) -> bytes:
    """Return a JSON object that is nested that deeply."""
    return b'{"type":"deep","x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


async def test_a_body_that_could_be_stored_and_not_shown_is_not_json(gateway: Gateway) -> None:
    receiver = await make_receiver(gateway)
    await gateway.post(
        "/webhooks/endpoints", {"url": "https://hooks.example.invalid/", "events": ["*"]}, key=gateway.admin
    )
    (await receiver.deliver(nested(32), id="msg_32")).expect(200)
    for name, body in {
        "33": nested(33),
        "199": nested(199),
        "inf": b'{"type":"a","x":[1e999]}',
        "-inf": b'{"type":"a","x":-1e999}',
        "bare": b"1e999",
    }.items():
        assert (await receiver.deliver(body, id=f"msg_{name}")).status == 400, name
    assert [event["signed_id"] for event in await events_of(gateway)] == ["msg_32"]
    deliveries = (await gateway.get("/webhooks/deliveries", key=gateway.admin)).expect(200)["items"]
    for delivery in deliveries:
        (await gateway.get(f"/webhooks/deliveries/{delivery['id']}", key=gateway.admin)).expect(200)


async def test_a_header_that_stands_twice_does_not_pass_for_none(gateway: Gateway) -> None:
    receiver, legacy = await make_receiver(gateway), await make_receiver(gateway, "legacy")

    async def send(to: Receiver, *more: tuple[str, str]) -> int:
        headers = [*to.headers().items(), *JSON_TYPE.items(), *more]
        return (await gateway.call("POST", to.path, data=BODY, headers=headers)).status

    assert await send(receiver, ("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")) == 415
    assert await send(legacy, ("X-Webhook-Version", "7")) == 401
    assert await events_of(gateway) == []
    assert await send(receiver) == 200 and await send(legacy) == 200
    asked = [*JSON_TYPE.items(), ("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")]
    assert (await gateway.call("POST", "/keys", data=b"{}", headers=asked, key=gateway.admin)).status == 415


async def test_a_workspace_stores_so_many_and_no_more(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RATE_LIMIT_WEBHOOKS_PER_MINUTE="3") as gateway:
        first, second = await make_receiver(gateway), await make_receiver(gateway, "github")
        elsewhere = await make_receiver(gateway, key=await gateway.key("webhooks:manage", workspace="other"))
        for _ in range(5):
            unsigned = await gateway.call("POST", first.path, data=BODY, headers=JSON_TYPE)
            assert unsigned.status == 401, "what is not signed uses nothing up"
        assert (await first.deliver(id="msg_1")).status == 200
        assert (await first.deliver(id="msg_2")).status == 200
        assert (await second.deliver()).status == 200
        refused = await first.deliver(id="msg_3")
        assert refused.status == 429 and "webhooks-ws" in refused.headers["RateLimit"]
        assert int(refused.headers["Retry-After"]) > 0
        assert (await elsewhere.deliver()).status == 200
        assert len(await events_of(gateway)) == 3
