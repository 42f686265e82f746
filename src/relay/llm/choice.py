"""Which models the settings name, where they are asked, and what start-up refuses."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from relay.llm.prices import Price, price_of
from relay.settings import Settings, SettingsError
from relay.settings.parse import is_loopback_host

Vendor = Literal["openai", "anthropic", "google"]
Label = Literal["first", "fallback"]

URLS: Final[dict[Vendor, str]] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "google": "https://generativelanguage.googleapis.com",
}
HEADERS: Final[dict[Vendor, str]] = {
    "openai": "authorization",
    "anthropic": "x-api-key",
    "google": "x-goog-api-key",
}
INSTALL: Final = ".venv/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/{}.txt"

_PACKAGES: Final[dict[Vendor, str]] = {"openai": "openai", "anthropic": "anthropic", "google": "google.genai"}
_INSIDE: Final = (".internal", ".local", ".lan", ".home.arpa", ".svc")


@dataclass(frozen=True, slots=True)
class Choice:
    """A model of the settings. ``label`` is what metrics call it, ``name`` what the settings do."""

    label: Label
    name: str
    vendor: Vendor
    model: str
    base_url: str
    key: SecretStr | None = field(repr=False)
    price: Price = field(repr=False)

    @property
    def is_openai(self) -> bool:
        """Whether OpenAI itself or Azure answers: what both insist on, other services may not know."""
        host = (urlsplit(self.base_url).hostname or "").lower()
        return self.vendor == "openai" and host.endswith(("api.openai.com", ".azure.com"))


class _WrongPlace(Exception):
    """A base URL must not be used. The text begins with its setting, not with the model that would be asked there."""


def choices(settings: Settings) -> tuple[Choice, ...]:
    """Return the models of these settings in the order in which they are asked; none where there is none.

    SettingsError for a model that cannot be asked: without its key, its library or a price, or over plain HTTP
    through a network that is not one's own, with a key that everybody on the way would read.
    """
    named: list[tuple[Label, str, str]] = []
    if settings.model_name is not None:
        named.append(("first", "AI_MODEL", settings.model_name))
    if settings.ai_fallback_model is not None:
        named.append(("fallback", "AI_FALLBACK_MODEL", settings.ai_fallback_model))
    problems = _misplaced(settings)
    found = []
    for label, setting, name in named:
        try:
            found.append(_choice(settings, label, name))
        except _WrongPlace as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{setting}: {error}")
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return tuple(found)


def _misplaced(settings: Settings) -> list[str]:
    fallback = settings.ai_fallback_model
    if fallback is None:
        return []
    if settings.model_name is None:
        return ["AI_FALLBACK_MODEL: there is no model that it could stand in for; set AI_MODEL"]
    if fallback.removeprefix("openai:") == settings.model_name.removeprefix("openai:"):
        return ["AI_FALLBACK_MODEL: is the model that it would stand in for"]
    return []


def _choice(settings: Settings, label: Label, name: str) -> Choice:
    vendor, model = _split(name)
    key: SecretStr | None = getattr(settings, f"{vendor}_api_key")
    given: str | None = getattr(settings, f"{vendor}_base_url")
    variable = vendor.upper()
    if not _installed(vendor):
        raise ValueError(f"{name} needs the extra `{vendor}`; in the checkout run: {INSTALL.format(vendor)}")
    if key is None and given is None:
        raise ValueError(
            f"{name} needs {variable}_API_KEY, or {variable}_BASE_URL where a service is that wants no key"
        )
    base_url = given or URLS[vendor]
    if key is not None and _in_the_clear(base_url):
        raise _WrongPlace(
            f"{variable}_BASE_URL: begins with http://, and {variable}_API_KEY would cross the network in the clear; "
            f"write https://, or leave {variable}_API_KEY out where the service wants no key"
        )
    price = price_of(name, model, base_url, vendor, settings.ai_prices)
    if price is None:
        raise ValueError(
            f"there is no price for {name}; set AI_PRICES={model}=IN/OUT, in US dollars for a million tokens, "
            "0/0 where it costs nothing"
        )
    return Choice(label, name, vendor, model, base_url, key, price)


def _split(name: str) -> tuple[Vendor, str]:
    head, _, tail = name.partition(":")
    for vendor in get_args(Vendor):
        if head == vendor and tail:
            return vendor, tail
    return "openai", name


def _installed(vendor: Vendor) -> bool:
    try:
        return find_spec(_PACKAGES[vendor]) is not None
    except ModuleNotFoundError:  # the package that it lies in is not there either
        return False


def _in_the_clear(url: str) -> bool:
    """Say whether this is plain HTTP beyond this machine and what looks like a network of one's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme != "http" or is_loopback_host(host):
        return False
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((*_INSIDE, ".svc.cluster.local"))
