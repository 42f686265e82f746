"""What credentials look like in text: the one table that redaction and scanners share.

Every pattern finds cut and mistyped ones too. Each begins with fixed characters, and takes what it may take at once:
a second start never reads again what a first one has read in vain, which keeps the search linear in the text's length.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of credential.

    ``regex`` finds it; a group named ``secret`` is the part to hide where that is not the whole. Every text with a
    match holds one of ``hints`` when it is put into lower case; most texts hold none, and are done with at once.
    ``keep`` characters from the beginning say what it was and may be shown.
    """

    name: str
    regex: re.Pattern[str]
    hints: tuple[str, ...]
    keep: int = 0


def _pattern(name: str, regex: str, *hints: str, keep: int = 0, flags: int = 0) -> Pattern:
    return Pattern(name, re.compile(regex, re.ASCII | flags), hints, keep)


_ANY: Final = re.IGNORECASE
# JSON that is a text in JSON has its quotation marks escaped, again for every time that it is put into another.
_MARKS: Final = r"[\\\"']{0,8}"
_NAMES: Final = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|credential|pepper|api[_-]?key|private[_-]?key|access[_-]?key"
    r"|signing[_-]?key|encryption[_-]?key|fernet)[0-9a-z_-]{0,30}"
    rf"{_MARKS}\s{{0,4}}[=:]\s{{0,4}}"
)
_NAME_HINTS: Final = (
    *("password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "pepper", "fernet"),
    *(f"{name}{mark}key" for name in ("api", "private", "access", "signing", "encryption") for mark in ("", "_", "-")),
)
_HEADERS: Final = rf"(?:authorization|cookie|x-api-key){_MARKS}\s{{0,4}}[=:]\s{{0,4}}(?:b?[\\\"']{{1,8}})?"

PATTERNS: Final[tuple[Pattern, ...]] = (
    _pattern(
        "private_key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,60}-----|\Z)",
        "private key",
    ),
    # A key's public prefix alone is no key.
    _pattern(
        "relay_api_key",
        r"relay(?:_|%5f)sk(?:_|%5f)(?!(?:live|test|local)_(?![0-9a-z_]))[0-9a-z_%]+",
        "relay_sk",
        "relay%5fsk",
        keep=9,
        flags=_ANY,
    ),
    _pattern("webhook_secret", r"whs(?:ec|k|pk)_[0-9a-z+/=_-]{6,}", "whsec_", "whsk_", "whspk_", keep=5, flags=_ANY),
    _pattern("anthropic_key", r"sk-ant-[0-9A-Za-z_-]{6,}", "sk-ant-", keep=7),
    _pattern("openai_key", r"(?<![0-9A-Za-z])sk-[0-9A-Za-z_-]{16,}", "sk-", keep=3),
    _pattern("stripe_key", r"(?<![0-9A-Za-z])[rs]k_(?:live|test)_[0-9A-Za-z]{8,}", "k_live_", "k_test_", keep=8),
    _pattern("google_api_key", r"AIza[0-9A-Za-z_-]{16,}", "aiza", keep=4),
    _pattern("google_client_secret", r"GOCSPX-[0-9A-Za-z_-]{6,}", "gocspx-", keep=7),
    _pattern("google_oauth_token", r"(?<![0-9A-Za-z])ya29\.[0-9A-Za-z._-]{6,}", "ya29.", keep=5),
    _pattern("google_refresh_token", r"(?<![0-9A-Za-z])1//0[0-9A-Za-z_-]{16,}", "1//0", keep=4),
    _pattern("slack_token", r"xox[a-z]-[0-9A-Za-z-]{6,}", "xox", keep=5),
    _pattern("slack_app_token", r"xapp-[0-9A-Za-z-]{6,}", "xapp-", keep=5),
    _pattern(
        "slack_webhook",
        r"hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/(?P<secret>[0-9a-z_/-]{6,})",
        "hooks.slack",
        flags=_ANY,
    ),
    _pattern("github_token", r"gh[pousr]_[0-9A-Za-z]{12,}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", keep=4),
    _pattern("github_fine_grained_token", r"github_pat_[0-9A-Za-z_]{12,}", "github_pat_", keep=11),
    _pattern("gitlab_token", r"glpat-[0-9A-Za-z_-]{12,}", "glpat-", keep=6),
    _pattern(
        "aws_access_key",
        r"(?<![0-9A-Za-z])(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{12,}",
        "akia",
        "asia",
        "abia",
        "acca",
        keep=4,
    ),
    _pattern("jwt", r"eyJ[0-9A-Za-z_-]{8,}(?:\.[0-9A-Za-z_-]*){0,4}", "eyj", keep=3),
    _pattern("url_password", r"://[^\s/?#@:\"'<>]*:(?P<secret>[^\s/?#\"'<>]+)@", "://"),
    _pattern(
        "credential_header", rf"{_HEADERS}(?P<secret>[^\"'\r\n]+)", "authorization", "cookie", "x-api-key", flags=_ANY
    ),
    _pattern(
        "bearer",
        r"(?<![0-9a-z])(?:bearer|basic)(?:\s|%20){1,8}(?P<secret>[0-9a-z._~+/=:%-]{6,})",
        "bearer",
        "basic",
        flags=_ANY,
    ),
    _pattern("named_quoted", rf"{_NAMES}\\{{0,7}}[\"'](?P<secret>[^\"'\r\n]+)", *_NAME_HINTS, flags=_ANY),
    _pattern("named", rf"{_NAMES}(?P<secret>[^\s\"',;&(){{}}\[\]<>]{{6,}})", *_NAME_HINTS, flags=_ANY),
)
"""The credentials, in the order in which they are looked for: what says most about itself comes first.

Those that are hidden for the name that stands before them come last.
"""
