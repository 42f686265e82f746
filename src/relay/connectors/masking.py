"""How secrets in a request are hidden from everything but the wire."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

MASK: Final = "***"
MAX_READ: Final = 256 * 1024

# Values of these headers are shown; those of all others are secrets until proven otherwise.
SHOWN_HEADERS: Final = frozenset(
    """accept accept-charset accept-encoding accept-language cache-control content-disposition content-encoding
    content-language content-length content-type date host if-match if-modified-since if-none-match if-range
    if-unmodified-since origin prefer range traceparent user-agent x-request-id""".split()
)

_ANYWHERE: Final = re.compile(
    "token|secret|passw|passphrase|passcode|signature|credential|apikey|accesskey|privatekey|authoriz|authentic|bearer"
)
_AS_A_WORD: Final = frozenset("auth key keys sig pwd pass pin otp jwt sas session cookie csrf oauth".split())
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Addresses that are themselves the credential, by the vendors' documents.
_SECRET_PATHS: Final = (
    re.compile(r"(?<=://hooks\.slack\.com/)(?:services|triggers|workflows)/.+"),
    re.compile(r"(?<=://discord\.com/api/webhooks/)[^?#]+"),
    re.compile(r"(?<=://discordapp\.com/api/webhooks/)[^?#]+"),
    re.compile(r"(?<=://api\.telegram\.org/bot)[^/?#]+"),
    re.compile(r"(?<=\.webhook\.office\.com/)[^?#]+"),
)


def looks_secret(name: str) -> bool:
    """Tell whether a parameter or member of this name is treated as a secret. Errs on the side of hiding."""
    squeezed = re.sub(r"[^a-z]", "", name.lower())
    return bool(_ANYWHERE.search(squeezed)) or any(word.lower() in _AS_A_WORD for word in _WORDS.findall(name))


def mask_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with every value masked that is not known to be harmless."""
    return {name: value if name.lower() in SHOWN_HEADERS else MASK for name, value in headers.items()}


def mask_url(url: str) -> str:
    """Return a URL with secret-looking query values masked, and paths that are known to be credentials."""
    location, mark, query = url.partition("?")
    for secret in _SECRET_PATHS:
        location = secret.sub(MASK, location)
    query, hash_mark, _ = query.partition("#")
    return location.partition("#")[0] + mark + mask_form(query) + (f"#{MASK}" if hash_mark or "#" in location else "")


def mask_form(text: str) -> str:
    """Return ``a=1&token=x`` with secret-looking values masked, everything else as it was."""
    return "&".join(map(_mask_pair, text.split("&")))


def _mask_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={MASK}" if equals and looks_secret(unquote_plus(name)) else pair


def mask_json(value: Any) -> Any:
    """Return a JSON value with the whole value of each secret-looking member masked, at any depth."""
    if isinstance(value, dict):
        return {name: MASK if looks_secret(name) else mask_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mask_json(inner) for inner in value]
    return value


def mask_pairs(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Return query parameters with secret-looking values masked."""
    return {name: MASK if looks_secret(name) else value for name, value in pairs.items()}


def mask_text(text: str, content_type: str) -> str:
    """Return a text body with what its media type lets one recognise as secret masked; the rest is shown.

    A form or JSON of more than :data:`MAX_READ` characters, or nested too deeply to be read, is masked as a whole: to
    take it apart would hold everybody else up for seconds.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    is_form = media_type == "application/x-www-form-urlencoded"
    if not is_form and media_type != "application/json" and not media_type.endswith("+json"):
        return text
    if len(text) > MAX_READ:
        return MASK
    if is_form:
        return mask_form(text)
    try:
        return json.dumps(mask_json(json.loads(text)), ensure_ascii=False)
    except RecursionError:
        return MASK
    except ValueError:
        return text
