"""``email.send`` end to end: what the preview shows is what a real SMTP server receives."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from relay.connectors.email import SendMail, Sent, connector
from relay.core.action import Step
from relay.core.effect import EffectRefused
from relay.core.permit import PermitRefused
from relay.crypto.digest import sha256_hex
from relay.egress.mail import MaildirTransport
from relay.egress.smtp import SmtpTransport
from tests.outside import make_permit, make_step

SPEC = connector.actions["email.send"]
PARAMS = {
    "to": ["to@example.com"],
    "cc": ["cc@example.com"],
    "bcc": ["bcc@example.com"],
    "subject": "Grüße",
    "text": "Hello\n.\nbye",
    "html": "<p>Hello</p>",
    "attachments": [{"name": "a.bin", "data": base64.b64encode(bytes(range(256)) * 2000).decode()}],
}


def step(**change: Any) -> Step:
    return make_step("email.send", SendMail.model_validate({**PARAMS, **change}))


async def perform(given: Step, client: Any) -> Sent:
    result = await SPEC.handler(make_permit(given), given.params, client)
    assert isinstance(result, Sent)
    return result


async def test_the_server_receives_what_the_preview_showed() -> None:
    got: list[Envelope] = []

    class Inbox:
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
            got.append(envelope)
            return "250 OK"

    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: SMTP(Inbox(), hostname="mx"), "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        client, given = SmtpTransport(f"smtp://127.0.0.1:{port}", "relay@example.com"), step()
        shown = SPEC.render(given, client)
        sent = await perform(given, client)
    (envelope,) = got
    assert isinstance(envelope.content, bytes)
    assert sha256_hex(envelope.content) == shown.body["message"]["sha256"]
    assert len(envelope.content) == shown.body["message"]["size"]
    assert envelope.content.startswith("\r\n".join(shown.body["headers"]).encode())
    assert envelope.rcpt_tos == ["to@example.com", "cc@example.com", "bcc@example.com"]
    assert sent.message_id == shown.body["message"]["message_id"]
    assert (sent.recipients, sent.transport, sent.delivered, sent.warning) == (3, "smtp", True, None)
    assert shown.warnings == () and shown.refusal is None


async def test_without_a_relay_preview_and_result_warn_and_the_message_is_stored(tmp_path: Path) -> None:
    client, given = MaildirTransport(tmp_path / "mail"), step()
    shown = SPEC.render(given, client)
    sent = await perform(given, client)
    assert "nothing leaves this machine" in shown.warnings[0]
    assert (sent.transport, sent.delivered, sent.warning) == ("maildir", False, shown.warnings[0])
    (stored,) = (tmp_path / "mail" / "new").iterdir()
    assert sha256_hex(stored.read_bytes()) == shown.body["message"]["sha256"]


async def test_the_preview_shows_the_mail_but_not_the_bytes_of_its_files(tmp_path: Path) -> None:
    shown = SPEC.render(step(), MaildirTransport(tmp_path))
    body = shown.body
    assert (body["from"], body["to"], body["cc"], body["bcc"]) == (
        "relay@localhost", ["to@example.com"], ["cc@example.com"], ["bcc@example.com"],
    )  # fmt: skip
    assert (body["subject"], body["text"], body["html"]) == ("Grüße", "Hello\n.\nbye", "<p>Hello</p>")
    content = bytes(range(256)) * 2000
    assert body["attachments"] == [
        {"name": "a.bin", "type": "application/octet-stream", "size": len(content), "sha256": sha256_hex(content)}
    ]
    assert PARAMS["attachments"][0]["data"][:60] not in repr(shown)  # type: ignore[index]
    assert "to@example.com" in shown.summary and "Grüße" in shown.summary and "1 attached" in shown.summary


async def test_a_permit_sends_one_mail(tmp_path: Path) -> None:
    client, given = MaildirTransport(tmp_path / "mail"), step()
    permit = make_permit(given)
    await SPEC.handler(permit, given.params, client)
    with pytest.raises(PermitRefused):
        await SPEC.handler(permit, given.params, client)
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1


async def test_a_refusal_of_the_relay_is_a_refusal() -> None:
    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 busy\r\n")
        writer.close()

    async with await asyncio.start_server(busy, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(EffectRefused):
            await perform(step(), SmtpTransport(f"smtp://127.0.0.1:{port}", "relay@example.com"))
