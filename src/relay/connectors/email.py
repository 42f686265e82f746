"""``email.send``: one mail, to everybody it names or to nobody."""

import asyncio
import base64
import binascii
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from relay.catalog import Connector, Rendering
from relay.connectors.message import Letter, Message, write
from relay.core.action import Step
from relay.core.domains import comparable_address
from relay.core.exposed import Exposed, Sum
from relay.core.permit import Permit
from relay.crypto.digest import sha256_hex
from relay.egress.mail import MailTransport, check_address, has_encoded_word, has_invisible

MAX_RECIPIENTS: Final = 100
MAX_BYTES: Final = 10 * 1024 * 1024
MAX_SUBJECT: Final = 500
CONCURRENCY: Final = 16

_LARGE: Final = 256 * 1024
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}")

connector: Final = Connector("email")


def _line(text: str) -> str:
    if has_invisible(text):
        raise ValueError("control, bidirectional and other invisible characters are not accepted here")
    if has_encoded_word(text):
        raise ValueError("encoded words (=?…?=, RFC 2047) are not accepted here: write the text itself")
    return text


def _text(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("NUL and lone surrogates are not accepted")
    return text


def _file_name(name: str) -> str:
    if "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError("a file name, not a path")
    return _line(name)


def _media_type(text: str) -> str:
    if not _MEDIA_TYPE.fullmatch(text) or text.lower().startswith(("multipart/", "message/")):
        raise ValueError("a media type such as application/pdf, without parameters and neither multipart nor message")
    return text.lower()


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64 (RFC 4648 section 4, padded, without line breaks)") from None
    return text


# Lengths stand first: what is too long is not looked at character by character.
MailAddress = Annotated[str, Field(max_length=254), AfterValidator(check_address)]


class Attachment(BaseModel):
    """A file of a mail."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_file_name)]
    type: Annotated[str, AfterValidator(_media_type)] = "application/octet-stream"
    data: Annotated[str, AfterValidator(_base64), Field(description="Base64", repr=False)]

    def content(self) -> bytes:
        """Return the decoded bytes."""
        return base64.b64decode(self.data)


class SendMail(BaseModel):
    """Parameters of ``email.send``: plain addresses, at most 100 in all; text, html and attachments ≤ 10 MiB in all."""

    model_config = ConfigDict(extra="forbid")

    to: list[MailAddress] = Field(default=[], description="Addresses without display names")
    cc: list[MailAddress] = []
    bcc: list[MailAddress] = Field(default=[], description="Recipients that the others do not see")
    subject: Annotated[str, Field(max_length=MAX_SUBJECT), AfterValidator(_line)]
    text: Annotated[str | None, AfterValidator(lambda text: text if text is None else _text(text))] = None
    html: Annotated[str | None, AfterValidator(lambda text: text if text is None else _text(text))] = None
    attachments: list[Attachment] = Field(default=[], max_length=100)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not 1 <= len(self.to) + len(self.cc) + len(self.bcc) <= MAX_RECIPIENTS:
            raise ValueError(f"a mail has between 1 and {MAX_RECIPIENTS} recipients in all")
        if self.text is None and self.html is None:
            raise ValueError("a mail needs text or html")
        if self.size() > MAX_BYTES:
            raise ValueError("text, html and attachments exceed 10 MiB in all")
        return self

    def size(self) -> int:
        """Return the bytes of text, html and decoded attachments."""
        files = sum(len(file.data) // 4 * 3 - file.data[-2:].count("=") for file in self.attachments)
        return len((self.text or "").encode()) + len((self.html or "").encode()) + files

    def recipients(self) -> list[str]:
        """Return every recipient once, in order."""
        return list(dict.fromkeys([*self.to, *self.cc, *self.bcc]))


class Sent(BaseModel):
    """What became of a mail. ``delivered`` is False, with a ``warning``, when it did not leave this machine."""

    message_id: str
    recipients: int
    transport: Literal["smtp", "maildir"]
    delivered: bool
    warning: str | None


def compose(params: SendMail, nonce: str, sender: str) -> Message:
    """Return the message for these parameters; equal arguments give equal bytes."""
    letter = Letter(
        sender=sender,
        to=tuple(params.to),
        cc=tuple(params.cc),
        subject=params.subject,
        text=params.text,
        html=params.html,
        attachments=tuple(params.attachments),
    )
    return write(letter, nonce)


def render(step: Step, client: MailTransport) -> Rendering:
    """Show the mail as it will be sent."""
    params: SendMail = step.params
    message = compose(params, step.nonce, client.sender)
    recipients = params.recipients()
    others = f" and {len(recipients) - 3} more" if len(recipients) > 3 else ""
    files = f", {len(params.attachments)} attached" if params.attachments else ""
    return Rendering(
        summary=f"Send “{params.subject}” to {', '.join(recipients[:3])}{others}{files}",
        body={
            "from": client.sender,
            "to": params.to,
            "cc": params.cc,
            "bcc": params.bcc,
            "subject": params.subject,
            "headers": message.head,
            "text": params.text,
            "html": params.html,
            "attachments": [_described(file) for file in params.attachments],
            "message": {
                "message_id": message.message_id,
                "size": len(message.data),
                "sha256": sha256_hex(message.data),
            },
        },
        warnings=() if client.notice is None else (client.notice,),
    )


def redact(params: SendMail) -> dict[str, Any]:
    """Return the parameters with attachments described instead of quoted."""
    plain = params.model_dump(mode="json", exclude={"attachments"})
    return {**plain, "attachments": [_described(file) for file in params.attachments]}


def digest_form(params: SendMail) -> dict[str, Any]:
    """Return the parameters for the digest: each attachment's content by its SHA-256."""
    return redact(params)


class ExposedMail(Exposed):
    """What policies and budgets see of a mail: its recipients, how many files it has, and how large it is."""

    attachments: int
    bytes: Sum


def expose(params: SendMail) -> ExposedMail:
    """Show whom the mail goes to, however the addresses are spelled and wherever they stand."""
    return ExposedMail(
        recipients=frozenset(map(comparable_address, params.recipients())),
        attachments=len(params.attachments),
        bytes=params.size(),
    )


def _described(file: Attachment) -> dict[str, Any]:
    content = file.content()
    return {"name": file.name, "type": file.type, "size": len(content), "sha256": sha256_hex(content)}


@connector.action(
    "email.send",
    effect="write",
    render=render,
    redact=redact,
    digest_form=digest_form,
    expose=expose,
    irreversible=True,
    # The mail relay's words are in no receipt: the message id is Relay's own, the rest are counts and fixed sentences.
    untrusted_result=False,
    timeout=90.0,
    concurrency=CONCURRENCY,
)
async def send(permit: Permit, params: SendMail, client: MailTransport) -> Sent:
    """Send an email."""
    nonce = permit.step.nonce
    if params.size() > _LARGE:
        message = await asyncio.to_thread(compose, params, nonce, client.sender)
    else:
        message = compose(params, nonce, client.sender)
    receipt = await client.deliver(permit, recipients=params.recipients(), message=message.data)
    return Sent(
        message_id=message.message_id,
        recipients=len(params.recipients()),
        transport=receipt.transport,
        delivered=client.leaves_machine,
        warning=client.notice,
    )
