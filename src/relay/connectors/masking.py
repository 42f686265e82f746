"""How secrets in a request are hidden from everything but the wire."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus

from relay.core.pointer import pointer_of

MASK: Final = "***"
MAX_READ: Final = 256 * 1024
MAX_NAMED: Final = 10
MAX_PLACE: Final = 100

# Values of these headers are shown; those of all others are secrets until proven otherwise. The three that servers take
# for the method are shown because what is approved as a POST could be a DELETE.
SHOWN_HEADERS: Final = frozenset(
    """accept accept-charset accept-encoding accept-language cache-control content-disposition content-encoding
    content-language content-length content-type date host if-match if-modified-since if-none-match if-range
    if-unmodified-since origin prefer range traceparent user-agent x-http-method x-http-method-override
    x-method-override x-request-id""".split()
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


@dataclass(slots=True)
class Masked:
    """Where values were masked, so that whoever approves knows what they do not see.

    Places are JSON Pointers (RFC 6901) into the request that is shown, in brackets the name within a query or form;
    the first :data:`MAX_NAMED` are kept, cut to :data:`MAX_PLACE` characters.
    """

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, *path: str | int, name: str | None = None) -> str:
        """Note a place and return what stands there instead of the value."""
        self.count += 1
        if len(self.places) < MAX_NAMED:
            self.places.append(_place(path, name))
        return MASK

    def join(self, other: "Masked") -> None:
        """Append what another one noted."""
        self.count += other.count
        self.places = (self.places + other.places)[:MAX_NAMED]

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence that names the places, in one line of printable characters; none where nothing is masked."""
        if not self.count:
            return ()
        more = self.count - len(self.places)
        values = "1 value is" if self.count == 1 else f"{self.count} values are"
        return (f"{values} masked: {', '.join(self.places)}{f' and {more} more' if more else ''}.",)


def _place(path: tuple[str | int, ...], name: str | None) -> str:
    text = pointer_of(path) + ("" if name is None else f" ({name})")
    # The sender chooses the names: none may break the line, turn it round, or fill it.
    text = "".join(char if char.isprintable() else "\ufffd" for char in text[: MAX_PLACE + 1])
    return text if len(text) <= MAX_PLACE else f"{text[: MAX_PLACE - 1]}…"


def looks_secret(name: str) -> bool:
    """Tell whether a parameter or member of this name is treated as a secret. Errs on the side of hiding."""
    return _is_secret(name) or any(word.lower() in _AS_A_WORD for word in _WORDS.findall(name))


def _is_secret(name: str) -> bool:
    return bool(_ANYWHERE.search(re.sub(r"[^a-z]", "", name.lower())))


def mask_headers(headers: Mapping[str, str], masked: Masked | None = None) -> dict[str, str]:
    """Return headers with every value masked that is not known to be harmless."""
    noted = masked or Masked()
    return {
        name: value if name.lower() in SHOWN_HEADERS else noted.add("headers", name) for name, value in headers.items()
    }


def mask_url(url: str, masked: Masked | None = None) -> str:
    """Return a URL with secret-looking query values masked, and paths that are known to be credentials."""
    noted = masked or Masked()
    location, mark, query = url.partition("?")
    for secret in _SECRET_PATHS:
        location = secret.sub(lambda _: noted.add("url"), location)
    query, hash_mark, _ = query.partition("#")
    fragment = f"#{noted.add('url')}" if hash_mark or "#" in location else ""
    return location.partition("#")[0] + mark + mask_form(query, noted, "url") + fragment


def mask_form(text: str, masked: Masked, place: str) -> str:
    """Return ``a=1&token=x`` with secret-looking values masked, everything else as it was."""
    return "&".join(_mask_pair(pair, masked, place) for pair in text.split("&"))


def _mask_pair(pair: str, masked: Masked, place: str) -> str:
    name, equals, _ = pair.partition("=")
    plain = unquote_plus(name)
    return f"{name}={masked.add(place, name=plain)}" if equals and looks_secret(plain) else pair


def mask_json(value: Any, masked: Masked | None = None) -> Any:
    """Return a JSON value with texts and numbers under secret-looking names masked, at any depth.

    The shape, the names, and true, false and null are always shown: a name must not hide what a request would do. What
    lies in a list goes by the list's name. What lies in an object goes by its own, and by the object's too where that
    surely is a secret (``credentials``), not where it may be a thing like any other (``session``, ``keys``).
    """
    return _mask_value(value, masked or Masked(), _Trail(None, "body"), secret=False, inherits=False)


@dataclass(frozen=True, slots=True)
class _Trail:
    """The way to a value, spelt out only where it is needed: for all values it would cost the square of the depth."""

    parent: "_Trail | None"
    name: str | int

    def path(self) -> tuple[str | int, ...]:
        found, step = [self.name], self.parent
        while step is not None:
            found.append(step.name)
            step = step.parent
        return tuple(reversed(found))


def _mask_value(value: Any, masked: Masked, at: _Trail, *, secret: bool, inherits: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _mask_value(
                inner,
                masked,
                _Trail(at, name),
                secret=inherits or looks_secret(name),
                inherits=inherits or _is_secret(name),
            )
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [
            _mask_value(inner, masked, _Trail(at, number), secret=secret, inherits=inherits)
            for number, inner in enumerate(value)
        ]
    if not secret or value is None or isinstance(value, bool):
        return value
    return masked.add(*at.path())


class _NamedTwice(Exception):
    pass


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NamedTwice
    return found


def mask_text(text: str, content_type: str, masked: Masked | None = None) -> str:
    """Return a text body with what its media type lets one recognise as secret masked; the rest is shown.

    A form or JSON of more than :data:`MAX_READ` characters, or nested too deeply to be read, is masked as a whole: to
    take it apart would hold everybody else up for seconds. So is JSON that names a member twice: whoever reads it takes
    one of the two, and nobody knows which.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    is_form = media_type == "application/x-www-form-urlencoded"
    if not is_form and media_type != "application/json" and not media_type.endswith("+json"):
        return text
    noted = masked or Masked()
    if len(text) > MAX_READ:
        return noted.add("body")
    if is_form:
        return mask_form(text, noted, "body")
    try:
        value = json.loads(text, object_pairs_hook=_named_once)
        return json.dumps(mask_json(value, noted), ensure_ascii=False)
    except (RecursionError, _NamedTwice):
        return noted.add("body")
    except ValueError:
        return text
