"""Mail through the relay that the operator names (RFC 5321, RFC 3207 STARTTLS, RFC 8314 implicit TLS).

The relay is not subject to the egress policy: only the operator's settings can name it.
"""

import asyncio
import base64
import contextlib
import ipaddress
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from relay.core.effect import EffectError, EffectRefused, EffectUnknown, EffectUnsent
from relay.egress.http import Leave
from relay.egress.mail import MailReceipt, check_address

DEFAULT_TIMEOUT: Final = 60.0

_FORM: Final = "SMTP_URL must read smtp://[user:password@]host[:587] or smtps://[user:password@]host[:465]"
_EXCERPT: Final = 160
_ACCEPTED_RECIPIENT: Final = (250, 251)
_PARALLEL: Final = 8


@dataclass(frozen=True, slots=True)
class _Relay:
    """The operator's relay as SMTP_URL describes it."""

    host: str
    port: int
    implicit_tls: bool
    user: str
    password: str = field(repr=False)
    timeout: float
    helo: str
    tls: ssl.SSLContext = field(repr=False)


class SmtpTransport:
    """Sends through ``smtp://`` (STARTTLS, required and verified) or ``smtps://`` (TLS from the first byte, verified).

    Over ``smtp://`` the connection may stay plain only when the peer is a loopback address and offers no STARTTLS.
    ``?timeout=SECONDS`` bounds a whole delivery (default 60). ``ca_file`` replaces the system's certificate
    authorities. ``sender`` is a plain address. ValueError, which never repeats the URL, for anything malformed.
    """

    name: Final = "smtp"
    leaves_machine: Final = True
    notice: Final = None

    def __init__(self, url: str, sender: str, *, ca_file: str | None = None) -> None:
        self.sender = check_address(sender)
        self._relay = _parse(url, self.sender, ca_file)
        self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="relay-smtp")

    def __repr__(self) -> str:
        return f"SmtpTransport({self._relay.host}:{self._relay.port})"

    async def deliver(self, permit: Leave, *, recipients: Sequence[str], message: bytes) -> MailReceipt:
        """Send the message, byte for byte, to all of ``recipients`` or to none.

        See :class:`~relay.egress.mail.MailTransport`. When the relay refuses one recipient the transaction is reset
        and nobody gets the message. After a cancellation nothing begins to leave.
        """
        try:
            wanted = list(dict.fromkeys(map(check_address, recipients)))
        except ValueError:
            wanted = []
        if not wanted:
            raise EffectRefused("smtp_bad_recipient", "There is no valid recipient.")
        delivery = _Delivery(self._relay, permit, self.sender, wanted, message)
        running = self._pool.submit(delivery.run)
        try:
            async with asyncio.timeout(self._relay.timeout):
                await asyncio.shield(asyncio.wrap_future(_quiet(running)))
        except TimeoutError:
            if delivery.abort():
                raise EffectUnknown("smtp_timeout", "The mail relay did not confirm the message in time.") from None
            raise EffectUnsent("smtp_timeout", "The mail relay did not take the message in time.") from None
        except asyncio.CancelledError:
            delivery.abort()
            raise
        return MailReceipt("smtp")

    def close(self) -> None:
        """Let go of idle threads; deliveries that run are finished."""
        self._pool.shutdown(wait=False)


def _quiet(future: "Future[None]") -> "Future[None]":
    # An abandoned delivery ends with an exception that nobody awaits any more.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _parse(url: str, sender: str, ca_file: str | None) -> _Relay:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
        timeout = _timeout(parts)
        user, password = unquote(parts.username or "", errors="strict"), unquote(parts.password or "", errors="strict")
    except ValueError:
        raise ValueError(_FORM) from None
    if parts.scheme not in ("smtp", "smtps") or not host or parts.path not in ("", "/") or parts.fragment or port == 0:
        raise ValueError(_FORM)
    if bool(user) != bool(password) or not (user + password).isascii() or not (user + password).isprintable():
        raise ValueError("SMTP_URL must hold both a user and a password (ASCII, percent-encoded), or neither")
    implicit = parts.scheme == "smtps"
    domain = sender.rpartition("@")[2]
    return _Relay(
        host=host,
        port=port or (465 if implicit else 587),
        implicit_tls=implicit,
        user=user,
        password=password,
        timeout=timeout,
        # RFC 5321 section 4.1.1.1: a domain or an address literal. The machine's own name is nobody's business.
        helo=domain if "." in domain and domain.isascii() else "[127.0.0.1]",
        tls=ssl.create_default_context(cafile=ca_file),
    )


def _timeout(parts: SplitResult) -> float:
    query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    if set(query) - {"timeout"} or len(query.get("timeout", [])) > 1:
        raise ValueError("unknown parameter")
    timeout = float(query.get("timeout", [str(DEFAULT_TIMEOUT)])[0])
    if not 1 <= timeout <= 600:
        raise ValueError("timeout out of bounds")
    return timeout


class _Aborted(Exception):
    """The delivery was given up before the message began to leave."""


class _Delivery:
    """One message on its way, driven phase by phase in a worker thread."""

    def __init__(self, relay: _Relay, permit: Leave, sender: str, recipients: list[str], message: bytes) -> None:
        self._relay = relay
        self._permit = permit
        self._sender = sender
        self._recipients = recipients
        self._message = message
        self._lock = threading.Lock()
        self._aborted = False
        self._left = False
        self._socket: socket.socket | None = None

    def abort(self) -> bool:
        """Give up: nothing begins to leave from now on. Tell whether the message had begun to."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            return self._left

    def run(self) -> None:
        """Deliver, or raise an EffectError (PermitRefused when the lease ran out before the message left)."""
        try:
            with self._session() as smtp:
                self._send(smtp)
        except (EffectError, _Aborted):
            raise
        except smtplib.SMTPResponseException as error:
            raise self._refused(error.smtp_code, error.smtp_error) from None
        except ssl.SSLCertVerificationError:
            raise self._failed(
                "smtp_tls_failed",
                "The mail relay's TLS certificate is not acceptable (SMTP_CA_FILE names an authority of your own)",
            ) from None
        except ssl.SSLError:
            raise self._failed("smtp_tls_failed", "The mail relay's TLS certificate or handshake failed") from None
        except smtplib.SMTPNotSupportedError:
            raise self._failed("smtp_unsupported", "The mail relay lacks an extension that is needed") from None
        except (smtplib.SMTPException, OSError):
            raise self._failed("smtp_connection", "The connection to the mail relay failed") from None

    @contextlib.contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        smtp = self._connect()
        try:
            self._watch(smtp)
            self._secure(smtp)
            if self._relay.user:
                self._login(smtp)
            yield smtp
            with contextlib.suppress(smtplib.SMTPException, OSError):
                smtp.quit()
        finally:
            smtp.close()

    def _connect(self) -> smtplib.SMTP:
        relay = self._relay
        if relay.implicit_tls:
            return smtplib.SMTP_SSL(
                relay.host, relay.port, local_hostname=relay.helo, timeout=relay.timeout, context=relay.tls
            )
        return smtplib.SMTP(relay.host, relay.port, local_hostname=relay.helo, timeout=relay.timeout)

    def _secure(self, smtp: smtplib.SMTP) -> None:
        smtp.ehlo_or_helo_if_needed()
        if self._relay.implicit_tls:
            return
        if smtp.has_extn("starttls"):
            smtp.starttls(context=self._relay.tls)
            self._watch(smtp)
            smtp.ehlo_or_helo_if_needed()
        elif not _peer_is_loopback(smtp):
            raise EffectRefused(
                "smtp_no_tls", "The mail relay offers no STARTTLS; plain SMTP is for loopback addresses only."
            )

    def _login(self, smtp: smtplib.SMTP) -> None:
        try:
            smtp.login(self._relay.user, self._relay.password)
        except smtplib.SMTPAuthenticationError as error:
            # No excerpt: what a server says about a failed sign-in may repeat what was sent.
            detail = f"The mail relay refused Relay's credentials ({error.smtp_code})."
            raise EffectRefused(f"smtp_{error.smtp_code}", detail) from None
        except smtplib.SMTPNotSupportedError:
            raise EffectRefused("smtp_no_auth", "The mail relay offers no way to sign in over this link.") from None

    def _watch(self, smtp: smtplib.SMTP) -> None:
        """Let :meth:`abort` reach the socket, which STARTTLS replaces."""
        with self._lock:
            self._socket = smtp.sock
            if self._aborted:
                raise _Aborted

    def _send(self, smtp: smtplib.SMTP) -> None:
        self._envelope(smtp)
        code, reply = smtp.docmd("DATA")
        if code != 354:
            raise self._refused(code, reply)
        # RFC 5321 section 4.5.2: a line that begins with a dot gets another one.
        payload = re.sub(rb"(?m)^\.", b"..", self._message)
        end = b".\r\n" if payload.endswith(b"\r\n") else b"\r\n.\r\n"
        self._begin()
        smtp.send(payload + end)
        code, reply = smtp.getreply()
        if 400 <= code < 600:
            raise self._refused(code, reply)
        if not 200 <= code < 300:
            raise EffectUnknown("smtp_malformed", "The mail relay's answer to the message could not be read.")

    def _begin(self) -> None:
        with self._lock:
            if self._aborted:
                raise _Aborted
            self._permit.ensure_live()
            self._left = True

    def _envelope(self, smtp: smtplib.SMTP) -> None:
        options = [f"size={len(self._message)}"] if smtp.has_extn("size") else []
        if not all(address.isascii() for address in (self._sender, *self._recipients)):
            if not smtp.has_extn("smtputf8"):
                raise EffectRefused("smtp_no_utf8", "The mail relay takes no addresses outside ASCII (no SMTPUTF8).")
            # RFC 6531 section 3.4; with the option smtplib encodes the commands as UTF-8.
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        code, reply = smtp.mail(self._sender, options)
        if code != 250:
            raise self._refused(code, reply)
        refused: list[str] = []
        for recipient in self._recipients:
            code, reply = smtp.rcpt(recipient)
            if code not in _ACCEPTED_RECIPIENT:
                refused.append(f"{recipient} ({code} {self._excerpt(reply)})")
            if code == 421:
                break
        if refused:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                smtp.rset()
                smtp.quit()
            raise EffectRefused(
                "smtp_recipients_refused", f"The mail relay refused {'; '.join(refused)}. Nothing was sent to anybody."
            )

    def _refused(self, code: int, reply: bytes | str) -> EffectError:
        if not 400 <= code < 600:
            return self._failed("smtp_malformed", "The mail relay gave an answer that is not SMTP")
        return EffectRefused(f"smtp_{code}", f"The mail relay refused: {code} {self._excerpt(reply)}".rstrip() + ".")

    def _failed(self, code: str, sentence: str) -> EffectError:
        if self._left:
            return EffectUnknown(code, f"{sentence} before it confirmed the message.")
        return EffectUnsent(code, f"{sentence}; nothing was sent.")

    def _excerpt(self, reply: bytes | str) -> str:
        text = reply.decode("ascii", "replace") if isinstance(reply, bytes) else reply
        for secret in _spellings(self._relay.user, self._relay.password):
            text = text.replace(secret, "***")
        text = "".join(char if char.isascii() and char.isprintable() else " " for char in text)
        return " ".join(text.split())[:_EXCERPT].rstrip(". ")


def _spellings(user: str, password: str) -> list[str]:
    """Return how a password travels in AUTH PLAIN and LOGIN, so that a reply that echoes it can be cleaned."""
    if not password:
        return []
    plain = f"\0{user}\0{password}"
    return [base64.b64encode(text.encode()).decode() for text in (plain, password)] + [password]


def _peer_is_loopback(smtp: smtplib.SMTP) -> bool:
    assert smtp.sock is not None
    return ipaddress.ip_address(smtp.sock.getpeername()[0].partition("%")[0]).is_loopback
