"""Mail through real SMTP servers on loopback: plain, STARTTLS, implicit TLS, and servers that misbehave."""

import asyncio
import base64
import mailbox
import ssl
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from relay.core.effect import EffectError, EffectRefused, EffectUnknown, EffectUnsent
from relay.core.permit import PermitRefused
from relay.egress.mail import MaildirTransport
from relay.egress.smtp import SmtpTransport
from tests.outside import Certificate, make_certificate, make_permit

MESSAGE = b"From: a@example.com\r\nSubject: x\r\n\r\n.\r\n..dots\r\n.x\r\nend\r\n"
FROM = "relay@example.com"


class Inbox:
    """An aiosmtpd handler that keeps what it was given and can be told to refuse."""

    def __init__(self, *, refuse: str = "", data: str = "250 OK") -> None:
        self.refuse, self.data = refuse, data
        self.envelopes: list[Envelope] = []
        self.resets = 0
        self.tls: list[bool] = []

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        if self.refuse and address.startswith(self.refuse):
            return "550 no such\x07 mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.resets += 1
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        self.tls.append(session.ssl is not None)
        return self.data


@asynccontextmanager
async def smtp_server(inbox: Inbox, *, tls: ssl.SSLContext | None = None, **given: Any) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: SMTP(inbox, hostname="mx", **given), "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


@asynccontextmanager
async def raw_server(*replies: bytes | None, got: list[bytes] | None = None) -> AsyncIterator[int]:
    """A server that answers each line with the next reply, then hangs; None closes the connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for reply in replies:
                if reply is None:
                    return
                writer.write(reply)
                line = await reader.readline()
                if got is not None:
                    got.append(line)
                if not line:
                    return
            while line := await reader.readline():
                if got is not None:
                    got.append(line)
        except OSError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server_tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


async def deliver(transport: SmtpTransport, *recipients: str, message: bytes = MESSAGE, seconds: float = 30) -> None:
    receipt = await transport.deliver(make_permit(seconds=seconds), recipients=recipients, message=message)
    assert receipt.transport == "smtp"


async def fails(kind: type[EffectError], transport: SmtpTransport, *recipients: str) -> EffectError:
    with pytest.raises(kind) as raised:
        await deliver(transport, *(recipients or ("to@example.com",)))
    return raised.value


async def test_plain_to_loopback_byte_for_byte() -> None:
    inbox = Inbox()
    async with smtp_server(inbox) as port:
        await deliver(
            SmtpTransport(f"smtp://127.0.0.1:{port}", FROM), "a@example.com", "b@example.com", "a@example.com"
        )
    (envelope,) = inbox.envelopes
    assert envelope.content == MESSAGE
    assert envelope.mail_from == FROM
    assert envelope.rcpt_tos == ["a@example.com", "b@example.com"]


async def test_starttls_is_used_and_verified(server_tls: ssl.SSLContext, certificate: Certificate) -> None:
    inbox = Inbox()
    async with smtp_server(inbox, tls_context=server_tls, require_starttls=True) as port:
        url = f"smtp://localhost:{port}"
        await deliver(SmtpTransport(url, FROM, ca_file=str(certificate.cert)), "to@example.com")
        assert inbox.tls == [True]
        error = await fails(EffectUnsent, SmtpTransport(url, FROM))
    assert error.code == "smtp_tls_failed" and "SMTP_CA_FILE" in error.detail
    assert len(inbox.envelopes) == 1


@pytest.mark.parametrize("form", ["smtps", "smtp"])
async def test_a_certificate_for_another_name_is_refused(form: str, tmp_path: Path) -> None:
    made, inbox = make_certificate(tmp_path, names=("mail.example",)), Inbox()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(made.cert, made.key)
    settings: dict[str, Any] = {"tls": tls} if form == "smtps" else {"tls_context": tls}
    async with smtp_server(inbox, **settings) as port:
        transport = SmtpTransport(f"{form}://localhost:{port}", FROM, ca_file=str(made.cert))
        error = await fails(EffectUnsent, transport)
    assert error.code == "smtp_tls_failed"
    assert inbox.envelopes == []


async def test_implicit_tls_is_used_and_verified(server_tls: ssl.SSLContext, certificate: Certificate) -> None:
    inbox = Inbox()
    async with smtp_server(inbox, tls=server_tls) as port:
        url = f"smtps://localhost:{port}"
        await deliver(SmtpTransport(url, FROM, ca_file=str(certificate.cert)), "to@example.com")
        error = await fails(EffectUnsent, SmtpTransport(url, FROM))
    assert error.code == "smtp_tls_failed"
    assert len(inbox.envelopes) == 1


async def test_plain_to_anything_but_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # No other machine is at hand, so the peer's number is what this test replaces.
    monkeypatch.setattr("relay.egress.smtp._peer_is_loopback", lambda smtp: False)
    inbox = Inbox()
    async with smtp_server(inbox) as port:
        error = await fails(EffectRefused, SmtpTransport(f"smtp://127.0.0.1:{port}", FROM))
    assert error.code == "smtp_no_tls"
    assert inbox.envelopes == []


def _authenticator(password: bytes) -> Callable[..., AuthResult]:
    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
        right = (data.login, data.password) == (b"me@x", password)
        return AuthResult(success=right, handled=False)

    return check


async def test_credentials_are_decoded_and_used(server_tls: ssl.SSLContext, certificate: Certificate) -> None:
    inbox, authority = Inbox(), str(certificate.cert)
    given: dict[str, Any] = {
        "authenticator": _authenticator(b"p@ss/ word"),
        "auth_required": True,
        "tls_context": server_tls,
    }
    async with smtp_server(inbox, **given) as port:
        right, wrong = (f"smtp://me%40x:{word}@localhost:{port}" for word in ("p%40ss%2F%20word", "hunter2"))
        await deliver(SmtpTransport(right, FROM, ca_file=authority), "to@example.com")
        error = await fails(EffectRefused, SmtpTransport(wrong, FROM, ca_file=authority))
    assert error.code == "smtp_535"
    assert "hunter2" not in error.detail and base64.b64encode(b"hunter2").decode() not in error.detail
    assert len(inbox.envelopes) == 1


async def test_a_relay_that_wants_no_credentials_gets_none() -> None:
    async with smtp_server(Inbox()) as port:
        error = await fails(EffectRefused, SmtpTransport(f"smtp://me:hunter2@127.0.0.1:{port}", FROM))
    assert error.code == "smtp_no_auth"


async def test_one_refused_recipient_means_that_nobody_gets_it() -> None:
    inbox = Inbox(refuse="bad")
    async with smtp_server(inbox) as port:
        transport = SmtpTransport(f"smtp://127.0.0.1:{port}", FROM)
        error = await fails(EffectRefused, transport, "good@example.com", "bad1@example.com", "bad2@example.com")
    assert error.code == "smtp_recipients_refused"
    assert "bad1@example.com (550 no such mailbox here)" in error.detail and "bad2@" in error.detail
    assert "good@" not in error.detail
    assert inbox.envelopes == [] and inbox.resets == 1


@pytest.mark.parametrize("data", ["554 spam", "452 full"])
async def test_a_refusal_after_the_message_is_a_refusal(data: str) -> None:
    async with smtp_server(Inbox(data=data)) as port:
        error = await fails(EffectRefused, SmtpTransport(f"smtp://127.0.0.1:{port}", FROM))
    assert error.code == f"smtp_{data[:3]}"
    assert data[4:] in error.detail


async def test_addresses_outside_ascii_need_smtputf8() -> None:
    inbox = Inbox()
    async with smtp_server(inbox, enable_SMTPUTF8=True) as port:
        await deliver(SmtpTransport(f"smtp://127.0.0.1:{port}", FROM), "jürgen@exämple.com")
    assert inbox.envelopes[0].rcpt_tos == ["jürgen@exämple.com"]
    async with smtp_server(inbox) as port:
        error = await fails(EffectRefused, SmtpTransport(f"smtp://127.0.0.1:{port}", FROM), "jürgen@exämple.com")
    assert error.code == "smtp_no_utf8"
    assert len(inbox.envelopes) == 1


async def test_too_large_for_the_relay_is_refused_before_it_is_sent() -> None:
    inbox = Inbox()
    async with smtp_server(inbox, data_size_limit=1000) as port:
        with pytest.raises(EffectRefused) as raised:
            await deliver(SmtpTransport(f"smtp://127.0.0.1:{port}", FROM), "to@example.com", message=b"x" * 2000)
    assert raised.value.code == "smtp_552"


HELLO = (b"220 mx\r\n", b"250 mx\r\n")
ENVELOPE = (*HELLO, b"250 OK\r\n", b"250 OK\r\n")


@pytest.mark.parametrize(
    ("replies", "code"),
    [
        ((b"554 go away\r\n",), "smtp_554"),
        ((None,), "smtp_connection"),
        ((b"220 mx\r\n", None), "smtp_connection"),
        ((b"SSH-2.0-x\r\n",), "smtp_malformed"),
        ((*HELLO, b"550 not you\r\n"), "smtp_550"),
        ((*HELLO, None), "smtp_connection"),
        ((*HELLO, b"250 OK\r\n", None), "smtp_connection"),
        ((*ENVELOPE, b"451 later\r\n"), "smtp_451"),
        ((*ENVELOPE, None), "smtp_connection"),
    ],
)
async def test_whatever_fails_before_the_message_is_a_refusal(replies: tuple[bytes | None, ...], code: str) -> None:
    async with raw_server(*replies) as port:
        error = await fails(EffectRefused, SmtpTransport(f"smtp://127.0.0.1:{port}?timeout=5", FROM))
    assert error.code == code
    assert isinstance(error, EffectUnsent) == (code in ("smtp_connection", "smtp_malformed")), "who said no, said no"


async def test_nobody_listening_is_a_refusal() -> None:
    async with raw_server() as port:
        pass
    assert (await fails(EffectUnsent, SmtpTransport(f"smtp://127.0.0.1:{port}", FROM))).code == "smtp_connection"


async def test_silence_before_the_message_is_a_refusal_in_time() -> None:
    began = time.monotonic()
    async with raw_server(*HELLO) as port:
        error = await fails(EffectUnsent, SmtpTransport(f"smtp://127.0.0.1:{port}?timeout=1", FROM))
    assert error.code == "smtp_timeout" and time.monotonic() - began < 3


async def test_a_connection_that_drops_after_the_message_is_unknown() -> None:
    got: list[bytes] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (*ENVELOPE, b"354 go on\r\n"):
            writer.write(reply)
            await reader.readline()
        while (line := await reader.readline()) != b".\r\n":
            got.append(line)
        writer.close()

    listening = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        error = await fails(EffectUnknown, SmtpTransport(f"smtp://127.0.0.1:{port}", FROM))
    assert error.code == "smtp_connection"
    assert got[-1] == b"end\r\n"


@pytest.mark.parametrize("last", [b"what?\r\n", b"354 more\r\n"])
async def test_a_garbled_confirmation_is_unknown(last: bytes) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (*ENVELOPE, b"354 go on\r\n"):
            writer.write(reply)
            await reader.readline()
        while await reader.readline() != b".\r\n":
            pass
        writer.write(last)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(odd, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        await fails(EffectUnknown, SmtpTransport(f"smtp://127.0.0.1:{port}", FROM))


async def test_silence_after_the_message_is_unknown_in_time() -> None:
    async with raw_server(*ENVELOPE, b"354 go on\r\n") as port:
        error = await fails(EffectUnknown, SmtpTransport(f"smtp://127.0.0.1:{port}?timeout=1", FROM))
    assert error.code == "smtp_timeout"


@pytest.mark.parametrize("held", [len(HELLO), len(ENVELOPE)])
async def test_after_a_cancellation_nothing_begins_to_leave(held: int) -> None:
    got: list[bytes] = []
    waiting, cancelled, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number, reply in enumerate((*ENVELOPE, b"354 go on\r\n")):
                if number == held:
                    waiting.set()
                    await cancelled.wait()
                writer.write(reply)
                got.append(await reader.readline())
            got.append(await reader.read())
        except OSError:
            pass
        finally:
            writer.close()
            ended.set()

    async with await asyncio.start_server(patient, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        task = asyncio.create_task(deliver(SmtpTransport(f"smtp://127.0.0.1:{port}", FROM), "to@example.com"))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        await asyncio.wait_for(ended.wait(), 5)
    assert b"".join(got).startswith(b"ehlo")
    assert b"Subject" not in b"".join(got)


async def test_a_lease_that_ran_out_sends_nothing() -> None:
    inbox = Inbox()

    class Slow(Inbox):
        async def handle_RCPT(self, *given: Any) -> str:  # noqa: N802
            await asyncio.sleep(0.3)
            return await inbox.handle_RCPT(*given)

    async with smtp_server(Slow()) as port:
        with pytest.raises(PermitRefused):
            await deliver(SmtpTransport(f"smtp://127.0.0.1:{port}", FROM), "to@example.com", seconds=0.1)
        await asyncio.sleep(0.05)
    assert inbox.envelopes == []


async def test_an_echoed_password_is_cleaned_out_of_a_refusal() -> None:
    secret = base64.b64encode(b"\0me\0hunter2").decode()
    replies = (
        b"220 mx\r\n",
        b"250-mx\r\n250 AUTH PLAIN\r\n",
        b"235 OK\r\n",
        f"550 you sent hunter2 and {secret}\r\n".encode(),
    )
    async with raw_server(*replies) as port:
        error = await fails(EffectRefused, SmtpTransport(f"smtp://me:hunter2@127.0.0.1:{port}", FROM))
    assert "you sent *** and ***" in error.detail


@pytest.mark.parametrize(
    "url",
    ["", "smtp://", "http://x", "smtp://:hunter2@", "smtp://me@host", "smtp://:hunter2@host", "smtp://me:hunter2@h:x",
     "smtp://me:hunter2@h:0", "smtp://me:hunter2@h:99999", "smtp://me:hunter2@h/path", "smtp://me:hunter2@h#f",
     "smtp://me:hunter2@h?timeout=0", "smtp://me:hunter2@h?timeout=nan", "smtp://me:hunter2@h?tls=no",
     "smtp://me:hunter2@h?timeout=1&timeout=2", "smtp://me:hünter2@h", "smtp://me:hunter2%0d%0a@h",
     "smtp://me:hunter2%ff@h", "smtp://me:hunter2@[::1"],
)  # fmt: skip
def test_a_malformed_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="SMTP_URL") as raised:
        SmtpTransport(url, FROM)
    assert "nter2" not in repr(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_transport_does_not_show_its_password() -> None:
    transport = SmtpTransport("smtp://me:hunter2@mail.example", FROM)
    assert "hunter2" not in repr(transport) + repr(vars(transport))


@pytest.mark.parametrize("sender", ["", "x", "a@b\r\nBcc: c@d", "Name <a@b>"])
def test_a_bad_sender_is_refused(sender: str) -> None:
    with pytest.raises(ValueError):
        SmtpTransport("smtp://localhost", sender)


async def test_maildir_keeps_the_bytes_durably_and_privately(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    transport = MaildirTransport(folder)
    receipt = await transport.deliver(make_permit(), recipients=["to@example.com"], message=MESSAGE)
    assert receipt.transport == "maildir" and not transport.leaves_machine
    (stored,) = (folder / "new").iterdir()
    assert stored.read_bytes() == MESSAGE
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert {stat.S_IMODE(part.stat().st_mode) for part in (folder, *folder.iterdir())} == {0o700}
    assert list((folder / "tmp").iterdir()) == []
    box = mailbox.Maildir(folder, create=False)
    assert [message["Subject"] for message in box] == ["x"]
    box.close()


async def test_maildir_refuses_what_it_cannot_store(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("in the way")
    with pytest.raises(EffectRefused) as raised:
        await MaildirTransport(tmp_path / "mail").deliver(make_permit(), recipients=["a@b"], message=MESSAGE)
    assert raised.value.code == "mail_not_stored"
    assert str(tmp_path) not in raised.value.detail


async def test_maildir_stores_nothing_once_the_lease_has_run_out(tmp_path: Path) -> None:
    with pytest.raises(PermitRefused):
        await MaildirTransport(tmp_path / "mail").deliver(make_permit(seconds=-1), recipients=["a@b"], message=MESSAGE)
    assert list((tmp_path / "mail" / "new").iterdir()) == list((tmp_path / "mail" / "tmp").iterdir()) == []
