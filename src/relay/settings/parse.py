"""From the text of a setting to its value.

Each function raises ValueError with a sentence that follows the setting's name and never repeats the text.
"""

import os
import re
from datetime import date
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr, ValidationInfo

from relay.core.domains import ascii_domain
from relay.settings.secret_text import (
    WEBHOOK_PREFIX,
    decode_kek,
    decode_secret_key,
    decode_text_secret,
    decode_webhook_secret,
    is_placeholder,
)

Network = IPv4Network | IPv6Network
ActionLimit = tuple[str, int, int]
ActionPlaces = tuple[str, int]

MAX_RATE: Final = 1_000_000
MAX_WINDOW_SECONDS: Final = 86_400
MAX_PLACES: Final = 10_000
MAX_ACTION_NAMES: Final = 20

_HEADER: Final = r"[A-Za-z0-9_-]{1,100}=[!-+\--~]{1,4096}"
_HEADER_LIST: Final = re.compile(rf"{_HEADER}(?:,{_HEADER}){{0,15}}")
_RATIO: Final = re.compile(r"0(?:\.[0-9]{1,9})?|1(?:\.0{1,9})?")
_WHOLE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_ACTION_NAME: Final = re.compile(r"[a-z][a-z0-9]{0,49}(\.[a-z][a-z0-9_]{0,49}){1,3}", re.ASCII)
_ACTION_LIMIT: Final = re.compile(r"([a-z0-9_.]{1,100})=([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
_ACTION_PLACES: Final = re.compile(r"([a-z0-9_.]{1,100})=([0-9]{1,9})", re.ASCII)
_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_MAX_DOMAIN: Final = 253
_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}
_MAILBOX: Final = re.compile(r"[^\s@<>,;\"()]+@[^\s@<>,;\"()]+|[^<>\"]*<[^\s@<>,;\"()]+@[^\s@<>,;\"()]+>")
_PLAIN_ADDRESS: Final = re.compile(r"[^\s@<>,;:\"()\\]+@[^\s@<>,;:\"()\\]+")
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\.?", re.ASCII)


def switch(text: Any) -> bool:
    """Return the truth of ``true`` or ``false``; nothing else is a switch, so that no typo turns one on."""
    if text not in ("true", "false"):
        raise ValueError("must be exactly true or false")
    return bool(text == "true")


def whole(text: Any) -> int:
    """Return a whole number in decimal digits; signs, spaces, points and underscores are refused."""
    if not _WHOLE.fullmatch(text):
        hint = "; under Kubernetes set enableServiceLinks: false" if text.startswith("tcp://") else ""
        raise ValueError(f"must be a whole number in digits{hint}")
    return int(text)


def lower(text: Any) -> str:
    """Return the text in lower case."""
    return str(text).lower()


def entries(text: Any) -> tuple[str, ...]:
    """Return the entries of a comma-separated list, trimmed; an entry that is empty is refused."""
    parts = tuple(part.strip() for part in str(text).split(","))
    if not all(parts):
        raise ValueError("must be a comma-separated list without empty entries")
    return parts


def names(text: Any) -> tuple[str, ...]:
    """Return the entries of a list, each once, in the order given; ``none`` is an empty list."""
    return () if text == "none" else tuple(dict.fromkeys(entries(text)))


def networks(text: Any) -> tuple[Network, ...]:
    """Return networks in CIDR form; a bare address stands for itself.

    A network of everyone is refused: whoever trusts every peer's headers believes every address that is claimed.
    """
    found: list[Network] = []
    for part in entries(text):
        try:
            network = ip_network(part)
        except ValueError:
            raise ValueError("must be a comma-separated list of addresses and networks like 10.0.0.0/8") from None
        if network.prefixlen == 0:
            raise ValueError("must name the proxies' networks; trusting every peer is refused")
        found.append(network)
    return tuple(found)


def action_names(text: Any) -> tuple[str, ...]:
    """Return names of actions, each once, at most 20."""
    found = tuple(dict.fromkeys(entries(text)))
    if len(found) > MAX_ACTION_NAMES or not all(_ACTION_NAME.fullmatch(name) for name in found):
        raise ValueError(
            f"must be a comma-separated list of up to {MAX_ACTION_NAMES} names like vault.export_credentials"
        )
    return found


def action_limits(text: Any) -> tuple[ActionLimit, ...]:
    """Return ``action=count/seconds`` entries; one action may have several, over different windows."""
    found = []
    for part in entries(text):
        match = _ACTION_LIMIT.fullmatch(part)
        if match is None or not 1 <= int(match[2]) <= MAX_RATE or not 1 <= int(match[3]) <= MAX_WINDOW_SECONDS:
            raise ValueError(
                "must be a comma-separated list like email.send=100/3600: "
                f"1 to {MAX_RATE} times in 1 to {MAX_WINDOW_SECONDS} seconds"
            )
        found.append((match[1], int(match[2]), int(match[3])))
    return tuple(found)


def action_places(text: Any) -> tuple[ActionPlaces, ...]:
    """Return ``action=count`` entries, one for an action."""
    found: dict[str, int] = {}
    for part in entries(text):
        match = _ACTION_PLACES.fullmatch(part)
        if match is None or match[1] in found or not 1 <= int(match[2]) <= MAX_PLACES:
            raise ValueError(f"must be a comma-separated list like email.send=4, each action once, 1 to {MAX_PLACES}")
        found[match[1]] = int(match[2])
    return tuple(found.items())


def folder(text: Any, info: ValidationInfo) -> Path:
    """Return an absolute path; a relative one starts at the folder that Relay was started in."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("must not begin with the home folder of a user who does not exist") from None
    return path if path.is_absolute() else _cwd(info) / path


def existing_file(text: Any, info: ValidationInfo) -> Path:
    """Return the path of a file that exists."""
    path = folder(text, info)
    if not os.path.isfile(path):
        raise ValueError("must be the path of a file that exists")
    return path


def domains(text: Any) -> tuple[str, ...]:
    """Return domain names as rules compare them; ``*.name`` stands for everything below a name.

    A wildcard over a single label is refused: nobody owns all of ``*.com``.
    """
    found = []
    for part in entries(text):
        wildcard, name = part.startswith("*."), ascii_domain(part.removeprefix("*."))
        if not _DOMAIN.fullmatch(name) or len(name) > _MAX_DOMAIN or (wildcard and "." not in name):
            raise ValueError("must be a comma-separated list of domains like example.com or *.example.com")
        found.append(f"*.{name}" if wildcard else name)
    return tuple(dict.fromkeys(found))


def bind_address(text: Any) -> str:
    """Return a numeric address to listen on. ``localhost`` is 127.0.0.1, so that no hosts file can make it public."""
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError("must be an IP address such as 127.0.0.1, ::1 or 0.0.0.0") from None


def is_loopback_host(host: str) -> bool:
    """Tell whether a host can only be this machine: loopback addresses, ``localhost`` and names under it (RFC 6761)."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address: IPv4Address | IPv6Address = ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def origin(text: Any) -> str:
    """Return ``scheme://host[:port]`` in lower case, without a trailing slash."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or _userinfo(parts):
        raise ValueError("must look like https://relay.example.com")
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError("must have no path, query or fragment: Relay answers at the root of a host of its own")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def origins(text: Any) -> tuple[str, ...]:
    """Return exact web origins (RFC 6454, 6.2) as browsers write them: lower case, no default port; ``none`` is none.

    A wildcard and ``null``, which any sandboxed page can claim, are refused.
    """
    if text == "none":
        return ()
    found = []
    for part in entries(text):
        if part == "null" or "*" in part:
            raise ValueError("must name exact origins; * and null would let any page in")
        try:
            whole_origin = origin(part)
        except ValueError:
            raise ValueError("must be exact origins like https://app.example.com, comma-separated") from None
        if part.endswith("/") or not part.isascii():
            raise ValueError("must be exact origins without a path, not even a slash, in ASCII")
        scheme, _, authority = whole_origin.partition("://")
        found.append(f"{scheme}://{authority.removesuffix(_DEFAULT_PORT[scheme])}")
    return tuple(dict.fromkeys(found))


def contact(text: Any) -> str:
    """Return a contact as RFC 9116, section 2.5.3, wants it: a ``mailto:``, ``https:`` or ``tel:`` address."""
    if not text.startswith(("mailto:", "https://", "tel:")) or " " in text:
        raise ValueError("must be a mailto:, https:// or tel: address")
    return str(text)


def web_page(text: Any) -> str:
    """Return the address of a page, ``https`` only."""
    if _split(text).scheme != "https" or " " in text:
        raise ValueError("must be an https:// address")
    return str(text)


def mailbox(text: Any) -> str | None:
    """Return ``address@host`` or ``Name <address@host>``; none stays none."""
    if text is None:
        return None
    if not _MAILBOX.fullmatch(text):
        raise ValueError("must look like relay@example.com or Relay <relay@example.com>")
    return str(text)


def addresses(text: Any) -> tuple[str, ...]:
    """Return plain mail addresses, ``address@host``, from a comma-separated list."""
    found = entries(text)
    if not all(_PLAIN_ADDRESS.fullmatch(address) for address in found):
        raise ValueError("must be plain addresses such as approvals@example.com, comma-separated")
    return found


def database_url(secret: Any, info: ValidationInfo) -> SecretStr:
    """Return the address of a database; that of SQLite with an absolute path."""
    url = _connection(secret)
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        path = rest.removeprefix("/")
        if not rest.startswith("/") or path in ("", ":memory:") or "?" in path or path.endswith("/"):
            raise ValueError("must name a file: sqlite:///relative/path or sqlite:////absolute/path")
        return SecretStr(f"sqlite:///{folder(path, info)}")
    if scheme not in ("postgresql", "postgres"):
        raise ValueError("must begin with postgresql:// or sqlite:///")
    _split(url, host_needed=False)
    return SecretStr(url)


def redis_url(secret: Any) -> SecretStr:
    """Return the address of a Redis server."""
    url = _connection(secret)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    _split(url, host_needed=not url.startswith("unix:"))
    return SecretStr(url)


def smtp_url(secret: Any) -> SecretStr:
    """Return the address of a mail relay."""
    url = _connection(secret)
    if _split(url).scheme not in ("smtp", "smtps"):
        raise ValueError("must look like smtp://user:password@host:587 or smtps://user:password@host:465")
    return SecretStr(url)


def secret_key(secret: Any) -> SecretStr:
    """Return a root key whose text :func:`~relay.settings.secret_text.decode_secret_key` accepts."""
    decode_secret_key(secret.get_secret_value())
    return SecretStr(secret.get_secret_value())


def encryption_key(secret: Any) -> SecretStr:
    """Return a key-encryption key whose text :func:`~relay.settings.secret_text.decode_kek` accepts."""
    decode_kek(secret.get_secret_value())
    return SecretStr(secret.get_secret_value())


def webhook_secret(secret: Any) -> SecretStr:
    """Return a secret of webhooks: one of Standard Webhooks where it begins with ``whsec_``, else any long text."""
    text = secret.get_secret_value()
    if is_placeholder(text):
        raise ValueError("is a placeholder; give a real one")
    if text.startswith(WEBHOOK_PREFIX):
        decode_webhook_secret(text)
    else:
        decode_text_secret(text)
    return SecretStr(text)


def token(secret: Any) -> SecretStr:
    """Return a bearer token of 32 to 256 characters that RFC 6750 allows in a header (section 2.1, ``b64token``)."""
    text = secret.get_secret_value()
    decode_text_secret(text)
    if not _B64TOKEN.fullmatch(text):
        raise ValueError("must be letters, digits and -._~+/ alone, with = at its end if any, as a header carries it")
    return SecretStr(text)


def http_url(text: Any) -> str:
    """Return the address of an HTTP service, without a trailing slash; credentials in it are refused."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or _userinfo(parts) or parts.query or parts.fragment:
        raise ValueError("must look like http://127.0.0.1:4318, without credentials, query and fragment")
    return str(text).rstrip("/")


def header_list(secret: Any) -> SecretStr:
    """Return headers written as ``name=value``, comma-separated, with values percent-encoded (W3C Baggage)."""
    text = secret.get_secret_value()
    if is_placeholder(text):
        raise ValueError("is a placeholder; give a real one")
    if not _HEADER_LIST.fullmatch(text) or not unquote(text).isprintable():
        raise ValueError("must look like name=value,name=value, with values percent-encoded")
    return SecretStr(text)


def ratio(text: Any) -> float:
    """Return a number from 0 to 1, written in decimal."""
    if not _RATIO.fullmatch(text):
        raise ValueError("must be a number from 0 to 1, such as 0.25")
    return float(text)


def day(text: Any) -> date | None:
    """Return a day written as ``2030-12-31``; none stays none."""
    if text is None:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text or found.year > 2999:
        raise ValueError("must be a day like 2030-12-31")
    return found


def _connection(secret: SecretStr) -> str:
    url = secret.get_secret_value()
    if is_placeholder(url):
        raise ValueError("is a placeholder; give the real address")
    return url


def _split(text: str, *, host_needed: bool = True) -> SplitResult:
    # urlsplit's own errors quote what they could not read, a password perhaps.
    try:
        parts = urlsplit(text)
        usable = (parts.port or 1) > 0 and all(char.isprintable() and char not in " \\" for char in text)
        usable = usable and (not host_needed or _names_host(parts.hostname or ""))
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be a complete address: scheme, host, and a port in digits if any")
    return parts


def _names_host(host: str) -> bool:
    if ":" in host:
        ip_address(host)
        return True
    return bool(_HOST.fullmatch(host))


def _userinfo(parts: SplitResult) -> bool:
    return "@" in parts.netloc


def _cwd(info: ValidationInfo) -> Path:
    context: dict[str, Path] = info.context or {}
    return context.get("cwd") or Path.cwd()
