"""Signatures of webhooks: five schemes, each made and verified over the raw bytes of the body.

    standard   webhook-id, webhook-timestamp, webhook-signature    v1,base64   of  id.timestamp.body
    legacy     X-Webhook-Signature, X-Webhook-Version: 1           hex         of  body
    github     X-Hub-Signature-256                                 sha256=hex  of  body
    stripe     Stripe-Signature                                    t=…,v1=hex  of  t.body
    slack      X-Slack-Signature, X-Slack-Request-Timestamp        v0=hex      of  v0:timestamp:body

All are HMAC-SHA256. Sources: Standard Webhooks 1.0.0 (Svix sends the same under ``svix-`` names), and the
documentation of GitHub, Stripe and Slack. A verifier is chosen by whoever calls it, never by what it reads.
"""

import base64
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from relay.core.clock import MICROSECONDS
from relay.crypto.digest import equal
from relay.settings.secret_text import (
    decode_text_secret,
    decode_webhook_secret,
    generate_secret_key,
    generate_webhook_secret,
)

Scheme = Literal["standard", "legacy", "github", "stripe", "slack"]
SCHEMES: Final[tuple[Scheme, ...]] = get_args(Scheme)

TOLERANCE_SECONDS: Final = 300
MAX_SIGNATURES: Final = 32

Header = Callable[[bytes], bytes | None]
"""Returns the value of the only header of a name in lower case; None when there is none or more than one."""

Reason = Literal["missing", "malformed", "stale", "mismatch"]

_ID: Final = re.compile(rb"[!-\-/-~]{1,256}")  # visible ASCII without the full stop, which separates what is signed
_TIMESTAMP: Final = re.compile(rb"[1-9][0-9]{0,11}")
_STANDARD_NAMES: Final = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
_SVIX_NAMES: Final = (b"svix-id", b"svix-timestamp", b"svix-signature")

SIGNATURE_HEADERS: Final = frozenset(
    (
        *_STANDARD_NAMES,
        *_SVIX_NAMES,
        b"x-webhook-signature",
        b"x-hub-signature-256",
        b"x-hub-signature",
        b"stripe-signature",
        b"x-slack-signature",
        b"x-slack-request-timestamp",
    )
)
"""By which a request shows, under whichever scheme, that it means to be signed."""


@dataclass(frozen=True, slots=True)
class Verified:
    """One of the secrets signed these bytes. ``id`` is the signed id, None where the scheme signs none.

    ``signed_at`` is the signed time in microseconds, None where the scheme signs none.
    """

    id: str | None = None
    signed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Not verified. ``reason`` is for the operator's counters; a caller who learns it can probe."""

    reason: Reason


Verdict = Verified | Refused


def new_secret() -> str:
    """Return a fresh Standard Webhooks secret: ``whsec_`` and base64 of 32 random bytes."""
    return generate_webhook_secret()


def new_secret_for(scheme: Scheme) -> str:
    """Return a fresh secret for one scheme, with 256 random bits; ``whsec_…`` for ``standard``, else plain text."""
    return new_secret() if scheme == "standard" else generate_secret_key()


def decode_secret(text: str) -> bytes:
    """Return the key that a Standard Webhooks secret stands for: 24 to 64 bytes.

    ValueError, which never shows the text, without the prefix ``whsec_``, for base64 that is not canonical (libraries
    decode such a text to a short key without a word), for another length, and for a key that is not random.
    """
    return decode_webhook_secret(text)


def key_of(scheme: Scheme, text: str) -> bytes:
    """Return the HMAC key of a secret under one scheme: the decoded bytes under ``standard``, else the text's UTF-8.

    ValueError, which never shows the text, as :func:`decode_secret`; and under the other schemes for fewer than 32 or
    more than 256 characters, for white space around them, control characters, placeholders and what is not random.

    The same ``whsec_`` text gives another key under ``legacy`` than under ``standard``. With one key for both a legacy
    signature over a body shaped ``msg_x.1690000000.{…}`` would pass for a Standard Webhooks one.
    """
    return decode_secret(text) if scheme == "standard" else decode_text_secret(text)


def sign_standard(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Return one ``v1,…`` signature; several, separated by spaces, make up the header ``webhook-signature``.

    ``key`` comes from :func:`decode_secret`, ``timestamp`` is in seconds. ValueError for an id that is not 1 to 256
    visible ASCII characters without a full stop, or a timestamp that is not positive.
    """
    if not id.isascii() or not _ID.fullmatch(id.encode()):
        raise ValueError("a webhook id has 1 to 256 visible ASCII characters and no full stop")
    return _standard(key, b"%b.%b.%b" % (id.encode(), _stamp(timestamp), body)).decode()


def sign_legacy(secret_text: str, body: bytes) -> str:
    """Return the hex of ``X-Webhook-Signature``: the key is the UTF-8 of the whole text, ``whsec_`` included."""
    return _hex(secret_text.encode(), body).decode()


def sign_github(key: bytes, body: bytes) -> str:
    """Return ``X-Hub-Signature-256``."""
    return "sha256=" + _hex(key, body).decode()


def sign_stripe(key: bytes, timestamp: int, body: bytes) -> str:
    """Return ``Stripe-Signature`` for a timestamp in seconds."""
    stamp = _stamp(timestamp)
    return f"t={stamp.decode()},v1={_hex(key, b'%b.%b' % (stamp, body)).decode()}"


def sign_slack(key: bytes, timestamp: int, body: bytes) -> str:
    """Return ``X-Slack-Signature`` for a timestamp in seconds, which goes into ``X-Slack-Request-Timestamp``."""
    return "v0=" + _hex(key, b"v0:%b:%b" % (_stamp(timestamp), body)).decode()


def signed_headers(scheme: Scheme, secret: str, body: bytes, *, id: str, timestamp: int) -> dict[str, str]:
    """Return the headers that a sender of this scheme puts beside ``body``; ``id`` matters to ``standard`` alone.

    ValueError for a secret that :func:`key_of` refuses, or an id or timestamp that cannot be signed.
    """
    key = key_of(scheme, secret)
    match scheme:
        case "standard":
            signature = sign_standard(key, id, timestamp, body)
            return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}
        case "legacy":
            return {"X-Webhook-Signature": sign_legacy(secret, body), "X-Webhook-Version": "1"}
        case "github":
            return {"X-Hub-Signature-256": sign_github(key, body)}
        case "stripe":
            return {"Stripe-Signature": sign_stripe(key, timestamp, body)}
        case "slack":
            signature = sign_slack(key, timestamp, body)
            return {"X-Slack-Request-Timestamp": str(timestamp), "X-Slack-Signature": signature}


def verify(scheme: Scheme, keys: Sequence[bytes], header: Header, body: bytes, *, now: int) -> Verdict:
    """Verify ``body`` under one scheme against every one of ``keys``; ``now`` is in microseconds.

    Total: whatever bytes headers and body are, it returns and never raises. Without a key nothing is verified. Every
    key is tried with every signature, so that time does not tell which of them was nearly right. A time that is signed
    may differ from ``now`` by 300 seconds either way. A signature has one spelling (canonical base64, lower-case hex);
    any other is refused, as are more than 32 signatures.
    """
    verdict = _VERIFIERS[scheme](keys, header, body, now)
    if isinstance(verdict, Refused) and verdict.reason in ("missing", "malformed"):
        # As much work as for a wrong signature: how long a refusal takes must not tell which scheme is wanted.
        _any_matches(keys, (b"",), body, _hex)
    return verdict


def _verify_standard(keys: Sequence[bytes], header: Header, body: bytes, now: int) -> Verdict:
    # One family or the other, never a mixture of both.
    own = any(header(name) is not None for name in _STANDARD_NAMES)
    name, stamp, signatures = (header(part) for part in (_STANDARD_NAMES if own else _SVIX_NAMES))
    if name is None or stamp is None or signatures is None:
        return Refused("missing")
    if not _ID.fullmatch(name):
        return Refused("malformed")
    signed = b"%b.%b.%b" % (name, stamp, body)
    return _timed(keys, signatures.split(b" "), stamp, signed, now, _standard, name.decode())


def _verify_legacy(keys: Sequence[bytes], header: Header, body: bytes, now: int) -> Verdict:
    # The version is not signed. A sender who names another one means a format that this is not.
    if header(b"x-webhook-version") not in (None, b"1"):
        return Refused("malformed")
    return _untimed(keys, header(b"x-webhook-signature"), body, _hex)


def _verify_github(keys: Sequence[bytes], header: Header, body: bytes, now: int) -> Verdict:
    return _untimed(keys, header(b"x-hub-signature-256"), body, lambda key, signed: b"sha256=" + _hex(key, signed))


def _verify_stripe(keys: Sequence[bytes], header: Header, body: bytes, now: int) -> Verdict:
    value = header(b"stripe-signature")
    if value is None:
        return Refused("missing")
    parts = [part.partition(b"=") for part in value.split(b",")]
    stamps = [text for name, _, text in parts if name == b"t"]
    if len(stamps) != 1:
        return Refused("malformed")
    given = [text for name, _, text in parts if name == b"v1"]
    return _timed(keys, given, stamps[0], b"%b.%b" % (stamps[0], body), now, _hex)


def _verify_slack(keys: Sequence[bytes], header: Header, body: bytes, now: int) -> Verdict:
    stamp, signature = header(b"x-slack-request-timestamp"), header(b"x-slack-signature")
    if stamp is None or signature is None:
        return Refused("missing")
    signed = b"v0:%b:%b" % (stamp, body)
    return _timed(keys, [signature], stamp, signed, now, lambda key, data: b"v0=" + _hex(key, data))


_VERIFIERS: Final[dict[Scheme, Callable[[Sequence[bytes], Header, bytes, int], Verdict]]] = {
    "standard": _verify_standard,
    "legacy": _verify_legacy,
    "github": _verify_github,
    "stripe": _verify_stripe,
    "slack": _verify_slack,
}

_Sign = Callable[[bytes, bytes], bytes]


def _timed(
    keys: Sequence[bytes],
    given: Sequence[bytes],
    stamp: bytes,
    signed: bytes,
    now: int,
    sign: _Sign,
    signed_id: str | None = None,
) -> Verdict:
    if not _TIMESTAMP.fullmatch(stamp) or not 1 <= len(given) <= MAX_SIGNATURES:
        return Refused("malformed")
    signed_at = int(stamp) * MICROSECONDS
    matches = _any_matches(keys, given, signed, sign)
    if abs(now - signed_at) > TOLERANCE_SECONDS * MICROSECONDS:
        return Refused("stale")
    return Verified(signed_id, signed_at) if matches else Refused("mismatch")


def _untimed(keys: Sequence[bytes], signature: bytes | None, body: bytes, sign: _Sign) -> Verdict:
    if signature is None:
        return Refused("missing")
    return Verified() if _any_matches(keys, [signature], body, sign) else Refused("mismatch")


def _any_matches(keys: Iterable[bytes], given: Iterable[bytes], signed: bytes, sign: _Sign) -> bool:
    # The texts are compared, not what they decode to: nothing to decode, nothing that can raise, one spelling each.
    matches = False
    for key in keys:
        expected = sign(key, signed)
        for signature in given:
            matches |= equal(signature, expected)
    return matches


def _standard(key: bytes, signed: bytes) -> bytes:
    return b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))


def _hex(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256").hex().encode()


def _stamp(timestamp: int) -> bytes:
    stamp = b"%d" % timestamp
    if not _TIMESTAMP.fullmatch(stamp):
        raise ValueError("a timestamp is a positive number of seconds")
    return stamp
