"""A real SMTP server on loopback that keeps what it was given, byte for byte."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from ssl import SSLContext

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass(frozen=True)
class Mail:
    """A delivered message: the envelope, the bytes, and whether they came through TLS."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    tls: bool

    def header(self, name: str) -> str:
        return str(message_from_bytes(self.data, policy=default)[name])


@dataclass
class Inbox:
    """Everything that was delivered, in order."""

    port: int = 0
    mails: list[Mail] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        data = envelope.original_content or b""
        self.mails.append(Mail(str(envelope.mail_from), tuple(envelope.rcpt_tos), data, session.ssl is not None))
        return "250 OK"


@asynccontextmanager
async def smtp_inbox(tls: SSLContext | None = None) -> AsyncIterator[Inbox]:
    """Run a server on a free port of 127.0.0.1; with ``tls`` it takes mail after STARTTLS only."""
    inbox = Inbox()

    def session() -> SMTP:
        return SMTP(inbox, hostname="mx", tls_context=tls, require_starttls=tls is not None)

    listening = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    inbox.port = listening.sockets[0].getsockname()[1]
    try:
        yield inbox
    finally:
        listening.close()
