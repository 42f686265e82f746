"""What connection addresses tell: whether a link leaves this machine, is encrypted, and how good its password is."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from relay.settings import Settings
from relay.settings.parse import is_loopback_host
from relay.settings.secret_text import is_placeholder

URLS: Final = ("DATABASE_URL", "REDIS_URL", "SMTP_URL")

_SHORTEST: Final = 12
_FEWEST: Final = 6
_ENCRYPTED_MODES: Final = frozenset({"require", "verify-ca", "verify-full"})


@dataclass(frozen=True, slots=True)
class Link:
    """A connection to a server: which setting names it, whether it leaves this machine, and how it is guarded."""

    setting: str
    remote: bool
    encrypted: bool
    password: bool


def links(settings: Settings) -> tuple[Link, ...]:
    """Return the servers of Relay's own that the settings name. A mail relay is always spoken to over TLS."""
    return tuple(
        _link(name, value.get_secret_value())
        for name in ("DATABASE_URL", "REDIS_URL")
        if isinstance(value := getattr(settings, name.lower()), SecretStr) and "sqlite:" not in value.get_secret_value()
    )


def _link(name: str, url: str) -> Link:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = query.get("hostaddr", query.get("host", [parts.hostname or ""]))[0]
    remote = parts.scheme != "unix" and not (host == "" or host.startswith("/") or is_loopback_host(host))
    modes = _ENCRYPTED_MODES & set(query.get("sslmode", ()))
    return Link(name, remote, parts.scheme == "rediss" or bool(modes), _password(url)[1] != "")


def _password(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    user = unquote(parts.username or "") or query.get("user", [""])[0]
    return user, unquote(parts.password or "") or query.get("password", [""])[0]


def weakness(url: str) -> str | None:
    """Say how the password in a connection address can be guessed; None when it cannot, or when there is none."""
    user, password = _password(url)
    if not password:
        return None
    if is_placeholder(password):
        return "(a placeholder)"
    if password.lower() in (user.lower(), f"{user.lower()}123"):
        return "(the user's name)"
    if len(password) < _SHORTEST:
        return f"(shorter than {_SHORTEST} characters)"
    return "(a few characters repeated)" if len(set(password)) < _FEWEST else None
