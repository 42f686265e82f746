"""What of an endpoint is kept sealed: its URL, which may itself be a credential, and its secrets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic_core import from_json, to_json

from relay import __version__
from relay.core.clock import MICROSECONDS
from relay.crypto.webhooks import decode_secret, new_secret, sign_legacy, sign_standard

MAX_LIVE: Final = 3
AGENT: Final = f"Relay/{__version__}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A ``whsec_…`` secret; ``until`` is when it ends (microseconds), None for the newest.

    ``since`` is when it was made, None where a version of Relay that did not note it made it.
    """

    text: str = field(repr=False)
    until: int | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """The URL of an endpoint and its secrets, newest first."""

    url: str = field(repr=False)
    secrets: tuple[Secret, ...]

    @classmethod
    def new(cls, url: str, at: int) -> "Sealed":
        """Return what a new endpoint has: one fresh secret."""
        return cls(url, (Secret(new_secret(), since=at),))

    @classmethod
    def unpack(cls, plain: bytes) -> "Sealed":
        """Return what :meth:`pack` wrote."""
        value = from_json(plain)
        pairs = value["secrets"]
        times = value.get("since") or [None] * len(pairs)
        return cls(value["url"], tuple(Secret(text, until, at) for (text, until), at in zip(pairs, times, strict=True)))

    def pack(self) -> bytes:
        """Return the plaintext of the envelope."""
        return to_json(
            {
                "url": self.url,
                # Pairs, which a process of an earlier version reads as well while it still runs.
                "secrets": [(secret.text, secret.until) for secret in self.secrets],
                "since": [secret.since for secret in self.secrets],
            }
        )

    def rotated(self, at: int, until: int) -> "Sealed":
        """Return the same with a fresh secret in front; those before it end at ``until``, if they do not end before.

        At most :data:`MAX_LIVE` secrets are kept: a rotation never fails, the oldest makes room.
        """
        ended = [
            replace(secret, until=until if secret.until is None else min(secret.until, until))
            for secret in self.secrets
        ]
        living = _living(ended, at)
        return Sealed(self.url, (Secret(new_secret(), since=at), *living)[:MAX_LIVE])

    def living(self, at: int) -> list[Secret]:
        """Return the secrets that sign at a moment, newest first."""
        return _living(self.secrets, at)

    def headers(self, message_id: str, body: bytes, at: int, *, legacy: bool) -> dict[str, str]:
        """Return the headers of one attempt at time ``at``: signed with every secret that lives, the newest first.

        With ``legacy`` also the plain HMAC of the body, under the newest secret alone: that scheme has room for one.
        """
        stamp = at // MICROSECONDS
        headers = {
            "content-type": "application/json",
            "user-agent": AGENT,
            "webhook-id": message_id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": " ".join(
                sign_standard(decode_secret(secret.text), message_id, stamp, body) for secret in self.living(at)
            ),
        }
        if legacy:
            headers["x-webhook-signature"] = sign_legacy(self.secrets[0].text, body)
            headers["x-webhook-version"] = "1"
        return headers


def _living(secrets: Sequence[Secret], at: int) -> list[Secret]:
    return [secret for secret in secrets if secret.until is None or secret.until > at]
