"""What carries mail: the transports' common shape, addresses, and the Maildir that stands in for a relay."""

import asyncio
import contextlib
import itertools
import os
import re
import socket
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from relay.core.effect import EffectRefused, EffectUnknown
from relay.core.permit import Permit, PermitRefused
from relay.egress.http import Leave

LOCAL_SENDER: Final = "relay@localhost"

_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\u0080-\U0010ffff]"
_LABEL: Final = r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\u0080-\U0010ffff-]{0,61}[A-Za-z0-9\u0080-\U0010ffff])?"
_ADDRESS: Final = re.compile(rf"(?P<local>{_ATEXT}+(?:\.{_ATEXT}+)*)@(?P<domain>{_LABEL}(?:\.{_LABEL})*)")
# Cc control, Cf format (bidi among them), Cs surrogate, Zl and Zp separators, Cn and Co unassigned and private.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"})
_ENCODED_WORD: Final = re.compile(r"=\?.*\?=")

_SERIAL: Final = itertools.count()


def check_address(text: str) -> str:
    """Return a mail address, its domain in lower case; ValueError when it is not a plain ``local@domain``.

    The accepted form is RFC 5321 ``Dot-string@Domain`` with the non-ASCII characters of RFC 6531: at most 64
    octets before the @ and 254 in all. Display names, quoted local parts, comments and address literals are
    refused, and with them every way to hide a second recipient in one field.
    """
    match = _ADDRESS.fullmatch(text)
    # A full-width ＠ or a ligature would become another address at a server that normalises.
    if match is None or has_invisible(text) or has_encoded_word(text) or unicodedata.normalize("NFKC", text) != text:
        raise ValueError("not a plain mail address (local@domain, without a display name)")
    if len(match["local"].encode()) > 64 or len(text.encode()) > 254:
        raise ValueError("the mail address is too long")
    return f"{match['local']}@{match['domain'].lower()}"


def has_invisible(text: str) -> bool:
    """Tell whether ``text`` holds control, format (bidi, zero-width), separator or surrogate characters.

    In a header they end the line or make it read differently from what it is.
    """
    return any(unicodedata.category(char) in _INVISIBLE for char in text)


def has_encoded_word(text: str) -> bool:
    """Tell whether ``text`` may hold an encoded word (RFC 2047), ``=?utf-8?q?…?=``.

    Readers of a header decode it, and so does :mod:`email` while it writes one: line breaks, invisible characters and
    further addresses would come out of it that no check of the text has seen.
    """
    return _ENCODED_WORD.search(text) is not None


@dataclass(frozen=True, slots=True)
class MailReceipt:
    """A transport has taken responsibility for a message."""

    transport: Literal["smtp", "maildir"]


class MailTransport(Protocol):
    """What carries a finished message.

    ``sender`` is the address in From and in the envelope. ``notice`` is a sentence for preview and result when the
    message will not leave this machine (``leaves_machine`` is False), else None.
    """

    @property
    def name(self) -> Literal["smtp", "maildir"]: ...
    @property
    def leaves_machine(self) -> bool: ...
    @property
    def sender(self) -> str: ...
    @property
    def notice(self) -> str | None: ...

    async def deliver(self, permit: Permit, *, recipients: Sequence[str], message: bytes) -> MailReceipt:
        """Hand over ``message`` (RFC 5322 with CRLF line ends) for all of ``recipients`` or for none.

        The permit is checked immediately before the message's first byte leaves. EffectRefused when nothing was
        accepted, EffectUnknown when that cannot be known. A cancellation propagates and leaves the outcome unknown.
        """
        ...


class NoticeTransport(Protocol):
    """What carries the installation's own mail: a transport that acts under another leave than a permit."""

    @property
    def sender(self) -> str: ...

    async def deliver(self, permit: Leave, *, recipients: Sequence[str], message: bytes) -> MailReceipt:
        """Hand over ``message`` as :meth:`MailTransport.deliver` does."""
        ...


class MaildirTransport:
    """Stores messages in a Maildir (folders ``tmp``, ``new``, ``cur``; mode 0700, files 0600) instead of sending.

    A message appears in ``new`` whole and durable or not at all.
    """

    name: Final = "maildir"
    leaves_machine: Final = False

    def __init__(self, folder: Path, sender: str = LOCAL_SENDER) -> None:
        self.folder = folder
        self.sender = check_address(sender)
        self.notice = (
            f"SMTP_URL is not set: the message is stored in {folder.name}/ of the data folder, "
            "nothing leaves this machine."
        )

    async def deliver(self, permit: Leave, *, recipients: Sequence[str], message: bytes) -> MailReceipt:
        """Store the message, byte for byte; see :class:`MailTransport`. The envelope's recipients are not stored."""
        await asyncio.to_thread(self._store, permit, message)
        return MailReceipt("maildir")

    def _store(self, permit: Leave, message: bytes) -> None:
        name = _unique_name()
        draft, final = self.folder / "tmp" / name, self.folder / "new" / name
        try:
            for part in (self.folder, *(self.folder / name for name in ("tmp", "new", "cur"))):
                part.mkdir(mode=0o700, exist_ok=True, parents=part == self.folder)
            _write_durably(draft, message)
            permit.ensure_live()
            draft.rename(final)
        except OSError as error:
            _discard(draft)
            reason = os.strerror(error.errno) if error.errno else "input/output error"
            raise EffectRefused("mail_not_stored", f"The message could not be stored: {reason}.") from None
        except PermitRefused:
            _discard(draft)
            raise
        try:
            _sync_folder(final.parent)
        except OSError:
            raise EffectUnknown("mail_not_durable", "The message was stored, perhaps not durably.") from None


def _unique_name() -> str:
    # The form that Maildir readers expect: time, a part unique within the second, host (without / and :).
    host = socket.gethostname().replace("/", r"\057").replace(":", r"\072")
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    unique = f"M{nanoseconds // 1000}P{os.getpid()}Q{next(_SERIAL)}R{os.urandom(4).hex()}"
    return f"{seconds}.{unique}.{host}"


def _write_durably(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _discard(draft: Path) -> None:
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
