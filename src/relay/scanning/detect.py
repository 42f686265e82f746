"""What in a line of text looks like a credential: detect-secrets' detectors of exact shapes, and Relay's own.

Its detectors that guess from entropy or from a variable's name are left out: hashes, ids and digests fill any
repository, and a scan that is always red is not read. Nothing is sent anywhere to verify a finding.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detect_secrets.core.plugins.initialize import from_plugin_classname
from detect_secrets.plugins.base import BasePlugin
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.settings import transient_settings

from relay.crypto.fingerprint import fingerprint
from relay.scanning.formats import OwnFormats

DETECTORS: Final = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SoftlayerDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
RELAY_KEY: Final = re.compile(r"relay_sk_(?:live|test|local)_[0-9A-Za-z]{30,}")
_ALLOWED: Final = re.compile(r"pragma: ?(?:allowlist|whitelist)[ -]secret", re.IGNORECASE)
# Every detector wants a run of this length, a URL's scheme, or the first line of a private key.
_WORTH_A_LOOK: Final = re.compile(r"[0-9A-Za-z_+/=.:-]{16}|://|-----BEGIN|xox[a-z]-")
# user:password@host is how documentation writes a URL; at these hosts nobody's account is (RFC 2606, RFC 6761).
_EXAMPLE_PASSWORD: Final = re.compile(r"(?i)password|pass|pw|secret|\*+|\.+|[{$<%].*")
_EXAMPLE_HOST: Final = re.compile(
    r"(?i)(?:[\w.-]*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)(?![\w.-])"
    r"|127\.[\d.]+|\[::1\]|host(?![\w.-])|[{$<]"
)
_WINDOW: Final = 8192
_OVERLAP: Final = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What looks like a credential in one line; ``secret`` never leaves the process in readable form."""

    line: int
    kind: str
    fingerprint: str
    relay_key: str | None

    def __repr__(self) -> str:
        return f"Found({self.line}, {self.kind!r}, {self.fingerprint})"


def find(text: str) -> list[Found]:
    """Return what looks like a credential in ``text``, in order, each once a line.

    A line that says ``pragma: allowlist secret`` is left alone.
    """
    found: list[Found] = []
    for number, line in enumerate(text.split("\n"), 1):
        if _WORTH_A_LOOK.search(line) and not _ALLOWED.search(line):
            found += (Found(number, kind, digest, key) for kind, digest, key in _in_line(line))
    return found


def _in_line(line: str) -> list[tuple[str, str, str | None]]:
    if len(line) <= _WINDOW:
        return list(_secrets(line))
    # Some expressions take time that grows faster than their text: minified files have lines of megabytes.
    windows = (line[start : start + _WINDOW] for start in range(0, len(line), _WINDOW - _OVERLAP))
    return list(dict.fromkeys(found for window in windows for found in _secrets(window)))


@functools.lru_cache(maxsize=65_536)
def _secrets(line: str) -> tuple[tuple[str, str, str | None], ...]:
    # The versions of a file in a repository's history share nearly all of their lines.
    found: dict[str, tuple[str, str, str | None]] = {}
    for detector in _detectors():
        for secret in detector.analyze_string(line):
            if not _is_example(detector, secret, line):
                key = RELAY_KEY.fullmatch(secret)
                found.setdefault(secret, (detector.secret_type, fingerprint(secret), key[0] if key else None))
    # One format may be a part of another's: Stripe's begins within Relay's.
    return tuple(one for text, one in found.items() if not any(text in other for other in found if other != text))


def _is_example(detector: BasePlugin, secret: str, line: str) -> bool:
    if detector.secret_type != BasicAuthDetector.secret_type:
        return False
    if _EXAMPLE_PASSWORD.fullmatch(secret):
        return True
    hosts = [line[found.end() :] for found in re.finditer(re.escape(f":{secret}@"), line)]
    return bool(hosts) and all(_EXAMPLE_HOST.match(host) for host in hosts)


@functools.cache
def _detectors() -> Sequence[BasePlugin]:
    with transient_settings({"plugins_used": [{"name": name} for name in DETECTORS]}):
        return (OwnFormats(), *(from_plugin_classname(name) for name in DETECTORS))
