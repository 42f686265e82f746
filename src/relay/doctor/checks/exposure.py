"""Who can get in, and from where: modes, bind, TLS, proxies, pages, limits, what actions may reach."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from relay.doctor.check import some
from relay.doctor.facts import Facts
from relay.egress.policy import parse_allow_entry
from relay.limits.rules import RULES
from relay.settings.parse import Network, is_loopback_host
from relay.settings.safety import ignored_names

_WIDEST_INTERNAL: Final = {4: 8, 6: 7}
_WIDEST_PUBLIC: Final = {4: 16, 6: 32}
_WIDEST_EGRESS: Final = {4: 16, 6: 48}
_METADATA: Final = ("metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data")
_TIMES_DEFAULT: Final = 100


def settings_accepted(facts: Facts) -> str | None:
    """The settings are ones that Relay starts with."""
    return "; ".join(facts.problems) or None


def unknown_settings(facts: Facts) -> str | None:
    """No name in ``.env`` is unknown, and none in the environment or among the credentials is a slip of a setting's."""
    return ignored_names(facts.settings)


def environment(facts: Facts) -> str | None:
    """``local`` and ``test`` relax what production insists on."""
    env = facts.settings.env
    return None if env == "production" else f"RELAY_ENV is {env}"


def dev_auth_mode(facts: Facts) -> str | None:
    """Nobody acts without a credential."""
    return "DEV_AUTH_MODE=true: requests from this machine need no credential" if facts.settings.dev_auth_mode else None


def unsigned_webhooks(facts: Facts) -> str | None:
    """No webhook is believed without a signature."""
    if not facts.settings.webhook_allow_unsigned:
        return None
    return "WEBHOOK_ALLOW_UNSIGNED=true: webhooks from this machine need no signature"


def tls(facts: Facts) -> str | None:
    """Keys cross no network in the clear: what is open to others is reached by https."""
    settings = facts.settings
    if settings.public_url is None:
        if settings.loopback_bind:
            return None
        return f"Relay listens on {settings.host}, beyond this machine, and RELAY_PUBLIC_URL is not set"
    url = urlsplit(settings.public_url)
    if url.scheme == "http" and not is_loopback_host(url.hostname or ""):
        return "RELAY_PUBLIC_URL begins with http://: API keys would cross the network in the clear"
    if url.scheme == "http" and not settings.loopback_bind:
        return f"Relay listens on {settings.host}, beyond this machine, and RELAY_PUBLIC_URL is not https"
    return None


def trusted_proxies(facts: Facts) -> str | None:
    """Forwarding headers count from the proxies alone."""
    settings = facts.settings
    wide = [str(network) for network in settings.trusted_proxies if _too_wide(network)]
    if wide:
        return f"TRUSTED_PROXIES holds {some(wide)}: whoever is in there chooses the address that Relay believes"
    https = settings.public_url is not None and settings.public_url.startswith("https://")
    if https and not settings.trusted_proxies:
        return (
            "RELAY_PUBLIC_URL begins with https:// and TRUSTED_PROXIES is not set: nothing can say that a request came "
            "over HTTPS, so all but those of this machine are refused"
        )
    return None


def _too_wide(network: Network) -> bool:
    # 10.0.0.0/8 and 100.64.0.0/10 are what platforms say of their proxies; public space that wide is nobody's alone.
    if not network.is_global:
        return network.prefixlen < _WIDEST_INTERNAL[network.version]
    return network.prefixlen < _WIDEST_PUBLIC[network.version]


def cors(facts: Facts) -> str | None:
    """Pages that may call Relay come over https, from hosts that somebody owns."""
    settings = facts.settings
    if settings.env != "production":
        return None
    for origin in settings.cors_origins:
        url = urlsplit(origin)
        if is_loopback_host(url.hostname or ""):
            return f"CORS_ORIGINS holds {origin}: any program on a visitor's own machine may be that page"
        if url.scheme != "https":
            return f"CORS_ORIGINS holds {origin}: whoever is on the network can put a script into that page"
    return None


def limits_enforced(facts: Facts) -> str | None:
    """Limits refuse."""
    if facts.settings.rate_limit_mode == "enforce":
        return None
    return "RATE_LIMIT_MODE=observe: limits are counted and refuse nothing"


def limits_sensible(facts: Facts) -> str | None:
    """Limits are numbers that a caller can meet."""
    settings, high = facts.settings, []
    fields = type(settings).model_fields
    for name in sorted({rule.setting for rule in RULES}):
        default = fields[name].default
        if getattr(settings, name) > _TIMES_DEFAULT * default:
            high.append(f"{name.upper()} (default {default})")
    return f"more than {_TIMES_DEFAULT} times the default: {some(high)}" if high else None


def egress(facts: Facts) -> str | None:
    """Actions reach no more of the internal network than is meant."""
    for text in facts.settings.egress_allow:
        try:
            entry = parse_allow_entry(text)
        except ValueError as error:
            return str(error)
        if entry.host in _METADATA:
            return f"EGRESS_ALLOW holds {text}, which names instance metadata; Relay keeps that closed"
        network = entry.network
        if network is None:
            continue
        if network.prefixlen < _WIDEST_EGRESS[network.version]:
            return f"EGRESS_ALLOW holds {text}: everything in it is open to callers and agents"
    return None


def egress_internal(facts: Facts) -> str | None:
    """What is opened inside is opened on the port that is meant."""
    open_on_all = []
    for text in facts.settings.egress_allow:
        try:
            entry = parse_allow_entry(text)
        except ValueError:
            continue  # the check above says so
        inside = entry.network is not None and not _public(entry.network)
        if entry.port is None and (inside or (entry.host is not None and is_loopback_host(entry.host))):
            open_on_all.append(text)
    if not open_on_all:
        return None
    return f"EGRESS_ALLOW opens every port of {some(open_on_all)}: databases and shells as well as web servers"


def _public(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return network.is_global


def log_level(facts: Facts) -> str | None:
    """The log of production says no more than it must."""
    settings = facts.settings
    if settings.env != "production" or settings.log_level != "debug":
        return None
    return "LOG_LEVEL=debug in production: libraries log more than was looked through for secrets"


def metrics_token(facts: Facts) -> str | None:
    """Metrics of what is public want a token."""
    settings = facts.settings
    public = settings.public_url is not None and not is_loopback_host(urlsplit(settings.public_url).hostname or "")
    if not settings.telemetry_enabled or settings.metrics_token is not None or (settings.loopback_bind and not public):
        return None
    return (
        "METRICS_TOKEN is not set: /metrics answers direct callers on this machine alone, and a proxy here that drops "
        "its forwarding headers would be one"
    )
