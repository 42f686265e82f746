"""Deliveries over real HTTP: signatures, retries, refusals, and one bad receiver beside good ones."""

import asyncio
import hashlib
import hmac
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks
from sqlalchemy import select, update

from relay.core.clock import DAY, MICROSECONDS, now
from relay.store.tables.webhooks_out import webhook_deliveries, webhook_endpoints
from relay.store.target import Target
from relay.webhooks.schedule import Schedule
from tests.process import eventually
from tests.receivers import OK, Received, Reply, never, open_receiver, status
from tests.sending_kit import (
    MILLISECOND,
    NEVER_AGAIN,
    QUICK,
    act,
    back_date,
    deliveries,
    delivery,
    endpoint,
    sending,
    settled,
)


def verifies(secret: str, got: Received) -> None:
    """Both libraries accept the request; each raises otherwise."""
    standardwebhooks.Webhook(secret).verify(got.body, got.headers)
    svix.webhooks.Webhook(secret).verify(got.body, got.headers)


async def test_what_happened_is_told_at_once_and_verifies(target: Target, tmp_path: Path) -> None:
    # With an hour between looks, only the wake after the commit can be what made it quick.
    schedule = replace(QUICK, sweep=3600 * MICROSECONDS)
    async with open_receiver() as receiver, sending(target, tmp_path, schedule) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        attempt = await act(gateway)
        (got,) = await receiver.arrived()
        verifies(made["secret"], got)
        assert got.event["type"] == "action.succeeded" and got.event["data"]["attempt_id"] == attempt
        assert got.id.startswith("msg_") and "." not in got.id
        assert got.headers["content-type"] == "application/json" and got.headers["user-agent"].startswith("Relay/")
        assert "x-webhook-signature" not in got.headers
        (row,) = await settled(gateway, 1, "succeeded")
        assert (row["message_id"], row["attempts"], row["status_code"]) == (got.id, 1, 200)


async def test_the_legacy_signature_where_it_was_asked_for(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, legacy_signature=True)
        await act(gateway)
        got = (await receiver.arrived())[-1]
        expected = hmac.new(made["secret"].encode(), got.body, hashlib.sha256).hexdigest()
        assert (got.headers["x-webhook-signature"], got.headers["x-webhook-version"]) == (expected, "1")
        verifies(made["secret"], got)


async def test_old_and_new_secret_verify_during_a_rotation_and_only_then(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        path = f"/webhooks/endpoints/{made['id']}/rotate"
        rotated = (await gateway.post(path, key=gateway.admin)).expect(200)
        assert rotated["secret"] != made["secret"]
        await act(gateway)
        got = (await receiver.arrived(1))[0]
        for secret in (made["secret"], rotated["secret"]):
            verifies(secret, got)
        first = got.headers["webhook-signature"].split(" ")[0]
        with pytest.raises(standardwebhooks.WebhookVerificationError):  # the new one stands first
            standardwebhooks.Webhook(made["secret"]).verify(got.body, {**got.headers, "webhook-signature": first})
        last = (await gateway.post(path, {"overlap_hours": 0}, key=gateway.admin)).expect(200)
        await act(gateway)
        got = (await receiver.arrived(2))[1]
        verifies(last["secret"], got)
        for ended in (made["secret"], rotated["secret"]):  # without an overlap none of those before goes on
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                verifies(ended, got)


async def test_three_secrets_live_at_most(gateway_sending: Any) -> None:
    gateway, receiver = gateway_sending
    made = await endpoint(gateway, receiver.url, "action.succeeded")
    secrets = [made["secret"]]
    for _ in range(3):
        answer = await gateway.post(f"/webhooks/endpoints/{made['id']}/rotate", key=gateway.admin)
        secrets.append(answer.expect(200)["secret"])
    await act(gateway)
    (got,) = await receiver.arrived()
    assert len(got.headers["webhook-signature"].split(" ")) == 3
    for secret in secrets[1:]:
        verifies(secret, got)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifies(secrets[0], got)


@pytest.fixture
async def gateway_sending(target: Target, tmp_path: Path) -> Any:
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        yield gateway, receiver


async def test_a_failure_is_tried_again_under_the_same_id_with_a_fresh_time(target: Target, tmp_path: Path) -> None:
    answers = iter([(500, {}, b"broken"), (404, {}, b""), OK])
    async with open_receiver(lambda _: next(answers)) as receiver, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        first, second, third = await receiver.arrived(3)
        assert first.id == second.id == third.id and first.body == third.body
        verifies(made["secret"], third)
        (row,) = await settled(gateway, 1, "succeeded")
        found = await delivery(gateway, row["id"])
        tries = found["tries"]
        assert [one["status_code"] for one in tries] == [500, 404, 200] and [one["number"] for one in tries] == [
            1,
            2,
            3,
        ]
        assert tries[0]["error"] == "status_500" and tries[0]["answer"] == "broken" and tries[1]["answer"] is None
        assert found["body"] == first.event and found["attempts"] == 3


async def test_after_the_last_retry_it_is_a_dead_letter(target: Target, tmp_path: Path) -> None:
    schedule = replace(QUICK, retries=QUICK.retries[:2])
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, schedule) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (row,) = await settled(gateway, 1, "dead")
        assert row["attempts"] == 3 and row["error"] == "status_500" and row["next_attempt_at"] is None
        assert len(receiver.received) == 3


async def test_the_default_schedule_is_the_documented_one(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, Schedule()) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        await receiver.arrived()
        columns = webhook_deliveries.c

        async def waits() -> Any:
            return await gateway.house.database.reader.one(
                select(columns.due_at, columns.created_at).where(columns.attempts == 1)
            )

        due, created = await eventually(waits)
        assert (
            4 * MICROSECONDS <= due - created <= 6 * MICROSECONDS + 20 * MICROSECONDS
        )  # the attempt itself took a while
        assert due - now() <= 6 * MICROSECONDS


@pytest.mark.parametrize(
    ("code", "headers", "least", "most"),
    [
        (429, {"retry-after": "90"}, 60, 90),
        (503, {"retry-after": "100000"}, 80, 120),
        (503, {"retry-after": "1"}, 40, 60),
        (500, {"retry-after": "90"}, 40, 60),
        (429, {"retry-after": "garbage"}, 40, 60),
    ],
)
async def test_retry_after_is_honoured_within_bounds(
    sqlite_target: Target, tmp_path: Path, code: int, headers: dict[str, str], least: int, most: int
) -> None:
    schedule = replace(QUICK, retries=(60 * MICROSECONDS,))
    async with (
        open_receiver(lambda _: (code, headers, b"")) as receiver,
        sending(sqlite_target, tmp_path, schedule) as gateway,
    ):
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        await receiver.arrived()

        async def looked() -> Any:
            found = await deliveries(gateway)
            return found if found[0]["attempts"] else None

        await eventually(looked)
        row = await gateway.house.database.reader.one(select(webhook_deliveries.c.due_at))
        assert row is not None and least <= (row[0] - now()) / MICROSECONDS <= most


async def test_retry_after_may_be_a_date(sqlite_target: Target, tmp_path: Path) -> None:
    schedule = replace(QUICK, retries=(60 * MICROSECONDS,))

    def busy(_: Received) -> Reply:
        return 503, {"Retry-After": formatdate(time.time() + 100, usegmt=True)}, b""

    async with open_receiver(busy) as receiver, sending(sqlite_target, tmp_path, schedule) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        await receiver.arrived()

        async def waits() -> Any:
            return await gateway.house.database.reader.one(
                select(webhook_deliveries.c.due_at).where(webhook_deliveries.c.attempts == 1)
            )

        row = await eventually(waits)
        assert 80 <= (row[0] - now()) / MICROSECONDS <= 101


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_nobody_follows_it(sqlite_target: Target, tmp_path: Path, code: int) -> None:
    async with open_receiver() as elsewhere, open_receiver() as receiver:
        receiver.reply = status(code, Location=elsewhere.url)
        async with sending(sqlite_target, tmp_path, NEVER_AGAIN) as gateway:
            await endpoint(gateway, receiver.url, "action.succeeded")
            await act(gateway)
            (row,) = await settled(gateway, 1, "dead")
            assert (row["status_code"], row["error"]) == (code, "redirected") and elsewhere.received == []


async def test_gone_disables_at_once_and_the_others_are_told(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(410)) as gone, open_receiver() as other, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, gone.url)
        await endpoint(gateway, other.url, "webhook.endpoint.disabled")
        await act(gateway)
        (told,) = await other.arrived()
        assert told.event["data"]["endpoint_id"] == made["id"] and told.event["data"]["reason"] == "gone"
        seen = (await gateway.get(f"/webhooks/endpoints/{made['id']}", key=gateway.admin)).expect(200)
        assert seen["status"] == "disabled" and "410" in seen["disabled_detail"]
        assert (await deliveries(gateway, f"&endpoint={made['id']}&status=pending")) == []
        (event,) = await gateway.events("webhooks:endpoint:disabled")
        assert event["outcome"] == "gone" and event["target"] == made["id"]
        before = len(gone.received)
        await act(gateway)
        await settled(gateway, 1, "succeeded")
        assert len(gone.received) == before


async def test_five_days_of_nothing_but_failure_disable(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as bad, open_receiver() as other, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, bad.url, "action.succeeded")
        await endpoint(gateway, other.url, "webhook.endpoint.disabled")
        columns = webhook_endpoints.c
        four = (
            update(webhook_endpoints).where(columns.id == made["id"]).values(failing_since=now() - 4 * DAY, failures=1)
        )
        await back_date(gateway, four)
        await act(gateway)
        await bad.arrived(3)
        seen = (await gateway.get(f"/webhooks/endpoints/{made['id']}", key=gateway.admin)).expect(200)
        assert seen["status"] == "enabled"
        five = update(webhook_endpoints).where(columns.id == made["id"]).values(failing_since=now() - 5 * DAY)
        await back_date(gateway, five)
        await act(gateway)
        (told,) = await other.arrived()
        assert told.event["data"]["reason"] == "failing"
        seen = (await gateway.get(f"/webhooks/endpoints/{made['id']}", key=gateway.admin)).expect(200)
        assert seen["status"] == "disabled" and "five days" in seen["disabled_detail"]
        assert (await deliveries(gateway, f"&endpoint={made['id']}&status=pending")) == []
        dead = await settled(gateway, 1, "dead")
        assert {row["endpoint_id"] for row in dead} == {made["id"]}


async def test_one_success_ends_the_count_of_days(target: Target, tmp_path: Path) -> None:
    answers = iter([OK, (500, {}, b"")])
    async with open_receiver(lambda _: next(answers, OK)) as receiver, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        old = update(webhook_endpoints).values(failing_since=now() - 6 * DAY, failures=9)
        await back_date(gateway, old)
        await act(gateway)
        await settled(gateway, 1, "succeeded")
        await act(gateway)
        await settled(gateway, 2, "succeeded")
        seen = (await gateway.get(f"/webhooks/endpoints/{made['id']}", key=gateway.admin)).expect(200)
        assert (seen["status"], seen["failures"], seen["failing_since"]) == ("enabled", 0, None)


async def test_receivers_that_hang_or_fail_delay_no_other(target: Target, tmp_path: Path) -> None:
    schedule = replace(QUICK, timeout=20 * MICROSECONDS, lease=40 * MICROSECONDS, breaker=3)
    async with (
        open_receiver(never) as hangs,
        open_receiver(status(500)) as fails,
        open_receiver() as good,
        sending(target, tmp_path, schedule) as gateway,
    ):
        for receiver in (hangs, fails, good):
            await endpoint(gateway, receiver.url, "action.succeeded")
        began = time.monotonic()
        for number in range(30):
            await act(gateway, f"message {number}")
        await good.arrived(30)
        assert time.monotonic() - began < 20, "the good receiver waited for the time-out of the one that hangs"
        assert hangs.most <= 4 and len(set(good.ids)) == 30


async def test_at_most_four_deliveries_to_one_endpoint_are_under_way(target: Target, tmp_path: Path) -> None:
    async with open_receiver(never) as receiver, sending(target, tmp_path) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        for number in range(12):
            await act(gateway, str(number))
        await receiver.arrived(4)
        await asyncio.sleep(0.3)  # time for a fifth, were there one
        assert receiver.under_way == 4


async def test_the_breaker_leaves_one_probe_at_a_time_until_a_success(target: Target, tmp_path: Path) -> None:
    schedule = replace(QUICK, breaker=3, retries=(20 * MILLISECOND,) * 200)
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, schedule) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        for number in range(8):
            await act(gateway, str(number))
        path = f"/webhooks/endpoints/{made['id']}"

        async def opened() -> bool:
            seen = (await gateway.get(path, key=gateway.admin)).expect(200)
            return seen["failures"] >= 8 and seen["paused_until"] is not None

        await eventually(opened, 30)
        receiver.reply = never
        before = len(receiver.received)
        await receiver.arrived(before + 1)
        await asyncio.sleep(0.3)  # time for a second, were there one
        assert receiver.under_way == 1, "more than one probe of a suspect is under way"
        receiver.hang_up()
        receiver.reply = lambda _: OK
        await settled(gateway, 8, "succeeded")
        seen = (await gateway.get(path, key=gateway.admin)).expect(200)
        assert seen["failures"] == 0 and seen["paused_until"] is None


async def test_a_dead_receiver_is_a_failure_with_a_reason(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(target, tmp_path, NEVER_AGAIN) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        url = receiver.url
    async with sending(target, tmp_path, NEVER_AGAIN, admin=gateway.admin) as gateway:
        await act(gateway)
        (row,) = await settled(gateway, 1, "dead")
        found = await delivery(gateway, row["id"])
        assert found["error"] == "unreachable" and found["status_code"] is None
        assert url.rpartition("/")[0].removeprefix("http://") in found["tries"][0]["detail"]


async def test_egress_is_asked_again_at_every_delivery(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        async with sending(target, tmp_path, NEVER_AGAIN) as gateway:
            await endpoint(gateway, receiver.url, "action.succeeded")
        async with sending(target, tmp_path, NEVER_AGAIN, admin=gateway.admin, EGRESS_ALLOW="") as gateway:
            await act(gateway)
            (row,) = await settled(gateway, 1, "dead")
            assert row["error"] == "egress_denied" and receiver.received == []


async def test_an_answer_is_kept_as_text_up_to_a_kibibyte(target: Target, tmp_path: Path) -> None:
    said = b"\x1b[31m<script>alert(1)</script>\xff\xe2\x80\xae" + b"x" * 5000
    async with open_receiver(lambda _: (200, {}, said)) as receiver, sending(target, tmp_path) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (row,) = await settled(gateway, 1, "succeeded")
        answer = (await delivery(gateway, row["id"]))["tries"][0]["answer"]
        assert answer.startswith("�[31m<script>alert(1)</script>��xxx") and len(answer) <= 1024
        raw = await gateway.house.database.reader.all(select(webhook_deliveries))
        assert b"script" not in repr(raw).encode()


async def test_an_answer_that_never_ends_still_counts_by_its_status(sqlite_target: Target, tmp_path: Path) -> None:
    schedule = replace(NEVER_AGAIN, timeout=2 * MICROSECONDS, lease=10 * MICROSECONDS)
    async with open_receiver(never) as receiver, sending(sqlite_target, tmp_path, schedule) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (row,) = await settled(gateway, 1, "dead")
        assert row["error"] == "answer_timeout" and row["status_code"] is None
