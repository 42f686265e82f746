"""Mails about requests: sent at least once, never in the way of the request, and nothing in them that decides."""

import asyncio
from collections.abc import Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.approvals.letter import Letterhead, one_line, write_letter
from relay.approvals.notices import GIVE_UP_AFTER, Notices, pause_after
from relay.approvals.requests import Requests
from relay.core.clock import MICROSECONDS
from relay.core.effect import EffectRefused
from relay.egress.mail import MailReceipt
from relay.store.approval_notices import NoticeRow, add_notice, due_notices
from relay.store.approvals import ApprovalRow, chain
from relay.store.target import Target
from tests.approvals_kit import PATIENCE, Office, open_office
from tests.inbox import smtp_inbox

TO = "ada@example.com, bob@example.com"
FAR = 2**62


def a_request(**given: Any) -> ApprovalRow:
    values: dict[str, Any] = {
        "id": "apr_01a2",
        "workspace_id": "default",
        "attempt_id": "att_01a2",
        "action": "email.send",
        "digest": "ab" * 32,
        "requester_id": "key_01a2",
        "requester_made_by": chain(["operator"]),
        "status": "pending",
        "approvers": 1,
        "other_person": 0,
        "policy_id": "default",
        "policy_version": 1,
        "reason": "It needs a person.",
        "seen_version": None,
        "created_at": 1_893_456_000_000_000,
        "expires_at": 1_893_542_400_000_000,
        "decided_at": None,
    }
    return ApprovalRow(**(values | given))


HEAD = Letterhead("relay@example.com", ("ada@example.com", "bob@example.com"), "https://relay.example.com")


def parsed(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=default)
    assert isinstance(message, EmailMessage)
    return message


async def waits(office: Office, number: int) -> None:
    """Return once so many mails are still to be sent."""
    async with asyncio.timeout(PATIENCE):
        while len(await due_notices(office.gateway.house.database.reader, FAR, 100)) != number:
            await asyncio.sleep(0.02)


async def test_those_who_approve_get_a_mail(target: Target, tmp_path: Path) -> None:
    async with smtp_inbox() as inbox:
        settings = {
            "SMTP_URL": f"smtp://127.0.0.1:{inbox.port}",
            "SMTP_FROM": "relay@example.com",
            "APPROVAL_MAIL_TO": TO,
        }
        async with open_office(target, tmp_path / "data", **settings) as office:
            request = await office.requested("the\r\nBcc: eve@example.com\u202e thing", params={"secret": "canary"})
            await waits(office, 0)
            [mail] = inbox.mails
            assert mail.sender == "relay@example.com"
            assert mail.recipients == ("ada@example.com", "bob@example.com")
            message = parsed(mail.data)
            text = message.get_content().replace("\r\n", "\n")
            assert message["Subject"] == "Approval needed: deed.wipe" and message["Bcc"] is None
            assert message["To"] == "ada@example.com, bob@example.com"
            for part in (request["digest"], request["expires_at"], request["requested_by"], request["approval_id"]):
                assert part in text
            assert "Do the Bcc: eve@example.com thing" in text
            assert "canary" not in mail.data.decode() and "\u202e" not in text
            links = [line for line in text.splitlines() if request["approval_id"] in line]
            assert links == [f"  /approvals/{request['approval_id']}"]


async def test_without_recipients_nothing_is_kept(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data") as office:
        await office.requested()
        assert await due_notices(office.gateway.house.database.reader, FAR, 10) == []


class Post:
    """A mail relay that fails as often as it is told."""

    sender = "relay@example.com"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.sent: list[bytes] = []

    async def deliver(self, permit: Any, *, recipients: Sequence[str], message: bytes) -> MailReceipt:
        permit.ensure_live()
        if self.failures:
            self.failures -= 1
            raise EffectRefused("smtp_451", "The mail relay refused: 451.")
        self.sent.append(message)
        return MailReceipt("smtp")


async def test_a_mail_is_tried_again_and_given_up_after_a_day(target: Target, tmp_path: Path) -> None:
    """The rows are due far in the future, where the process's own sender does not look: this one is alone with them."""
    async with open_office(target, tmp_path / "data") as office:
        house = office.gateway.house
        reader, catalog, post = house.database.reader, office.gateway.server.performer._catalog, Post(failures=2)
        start = clock = FAR // 2
        notices = Notices(
            house.database,
            Requests(house.database, house.vault, catalog),
            post,
            recipients=("ada@example.com",),
            public_url=None,
            clock=lambda: clock,
        )
        request = await office.requested()
        row = NoticeRow(request["approval_id"], "default", start, start, 0)
        await house.database.writer.run(lambda tx: add_notice(tx, row))
        for tries in (1, 2):
            assert await notices.once(clock) == 1 and post.sent == []
            [found] = await due_notices(reader, FAR, 10)
            assert (found.tries, found.due_at) == (tries, clock + pause_after(tries))
            assert await notices.once(clock) == 0, "it waits its time"
            clock = found.due_at
        assert await notices.once(clock) == 1
        assert len(post.sent) == 1 and await due_notices(reader, FAR, 10) == []
        post.failures = 1
        await house.database.writer.run(lambda tx: add_notice(tx, row))
        clock = start + GIVE_UP_AFTER
        assert await notices.once(clock) == 1
        assert len(post.sent) == 1 and await due_notices(reader, FAR, 10) == []
        # Two that look at once: one takes it, and it is that one's until the lease ends.
        clock = start
        await house.database.writer.run(lambda tx: add_notice(tx, row))
        await asyncio.gather(notices.once(clock), notices.once(clock))
        assert len(post.sent) == 2
        assert post.sent[0] == post.sent[1], "a second copy shows that it is one"
        # What is decided is not written about any more.
        (await office.decide(request, "deny")).expect(200)
        await house.database.writer.run(lambda tx: add_notice(tx, row))
        await notices.once(clock)
        assert len(post.sent) == 2 and await due_notices(reader, FAR, 10) == []


async def test_a_mail_relay_that_is_away_delays_no_request(target: Target, tmp_path: Path) -> None:
    settings = {"SMTP_URL": "smtp://127.0.0.1:1", "SMTP_FROM": "relay@example.com", "APPROVAL_MAIL_TO": TO}
    async with open_office(target, tmp_path / "data", **settings) as office:
        request = await office.requested()
        (await office.decide(request)).expect(200)
        assert (await office.ended(request["attempt_id"]))["status"] == "succeeded"


@given(st.text(max_size=2000), st.text(max_size=300))
def test_whatever_a_requester_writes_stays_in_its_line(summary: str, reason: str) -> None:
    data = write_letter(HEAD, a_request(reason=reason), summary)
    plain = parsed(write_letter(HEAD, a_request(reason="fine"), "fine"))
    message = parsed(data)
    assert message.keys() == plain.keys()
    assert [message[name] for name in message] == [plain[name] for name in plain]
    assert len(message.get_content().splitlines()) == len(plain.get_content().splitlines())
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))


@given(st.text(max_size=3000))
def test_one_line_is_one_visible_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 500 and len(line.splitlines()) <= 1 and line == line.strip()
    assert line.isprintable()


def test_pauses_grow_up_to_an_hour() -> None:
    pauses = [pause_after(tries) for tries in range(1, 40)]
    assert pauses == sorted(pauses) and pauses[0] == 30 * MICROSECONDS and pauses[-1] == 3600 * MICROSECONDS
