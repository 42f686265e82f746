"""Writing a mail (RFC 5322, MIME) so that the same step gives the same bytes at preview and at execution."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final, Protocol

from relay.core.ids import id_milliseconds
from relay.crypto.digest import sha256_hex

# Seven bits throughout: no relay needs to be asked for 8BITMIME and none rewrites what was approved.
_POLICY: Final = policy.SMTP.clone(cte_type="7bit")


class Part(Protocol):
    """An attachment to be written."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...

    def content(self) -> bytes:
        """Return its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail says, before it has a form."""

    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...]
    subject: str
    text: str | None
    html: str | None
    attachments: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A finished mail. ``head`` are its header lines as they are sent."""

    message_id: str
    data: bytes

    @property
    def head(self) -> list[str]:
        """The header lines as they are sent, folded as they are folded."""
        return self.data.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def write(letter: Letter, nonce: str) -> Message:
    """Return the message as bytes with CRLF line ends.

    Date, Message-ID and boundaries derive from ``nonce``, so that equal arguments give equal bytes. Bcc has no
    place here: it belongs to the envelope alone.
    """
    addresses = (letter.sender, *letter.to, *letter.cc)
    form = _POLICY if all(map(str.isascii, addresses)) else _POLICY.clone(utf8=True)
    message = EmailMessage(policy=form)
    message_id = f"<{_derived(nonce, 'message-id')}@{letter.sender.rpartition('@')[2]}>"
    message["From"] = _address(letter.sender)
    message["To"] = tuple(map(_address, letter.to)) or "undisclosed-recipients:;"
    if letter.cc:
        message["Cc"] = tuple(map(_address, letter.cc))
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(datetime.fromtimestamp(id_milliseconds(nonce) // 1000, UTC))
    message["Message-ID"] = message_id
    _fill(message, letter)
    parts = (part for part in message.walk() if part.get_content_maintype() == "multipart")
    for index, part in enumerate(parts):
        part.set_boundary(f"={_derived(nonce, f'boundary {index}')}=")
    return Message(message_id, message.as_bytes(policy=form))


def _fill(message: EmailMessage, letter: Letter) -> None:
    if letter.text is not None:
        message.set_content(letter.text)
        if letter.html is not None:
            message.add_alternative(letter.html, subtype="html")
    elif letter.html is not None:
        message.set_content(letter.html, subtype="html")
    for part in letter.attachments:
        main, _, sub = part.type.partition("/")
        message.add_attachment(part.content(), maintype=main, subtype=sub, filename=part.name)


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(username=local, domain=domain)


def _derived(nonce: str, purpose: str) -> str:
    """Return 32 hex digits that the author of a text could not know while writing it."""
    return sha256_hex(f"relay mail {purpose} {nonce}".encode())[:32]
