"""Development mode: a request without credential acts as the person ``dev``, if it cannot come from elsewhere.

Start-up refuses the mode under other settings; they are looked at again here, for each request, because a bypass that
rests on one check falls with it.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from relay.core.facts import RequestFacts
from relay.core.forwarding import is_forwarded
from relay.core.principal import SCOPES, Principal
from relay.settings.model import Settings
from relay.settings.parse import is_loopback_host

DEV_ID: Final = "dev"
DEV_WORKSPACE: Final = "default"

_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,253})(?::[0-9]{1,5})?")
_CREDENTIALS: Final = frozenset((b"authorization", b"proxy-authorization", b"x-api-key", b"cookie"))


@dataclass(frozen=True, slots=True)
class DevFacts:
    """All that the decision rests on.

    ``peer`` is the numeric address at the other end of the socket, ``hosts`` the values of every ``Host`` header,
    ``header_names`` are in lower case, ``fetch_sites`` the values of ``Sec-Fetch-Site``.
    """

    enabled: bool
    env: str
    bind: str
    trusted_proxies: bool
    public_url_host: str | None
    peer: str
    hosts: tuple[bytes, ...]
    header_names: frozenset[bytes]
    fetch_sites: tuple[bytes, ...] = ()


def dev_principal() -> Principal:
    """Return the person ``dev`` of workspace ``default``, who holds every scope."""
    return Principal(
        id=DEV_ID,
        kind="person",
        workspace_id=DEV_WORKSPACE,
        scopes=frozenset(SCOPES),
        credential_id=DEV_ID,
        made_by=(),
        auth_method="dev",
    )


def dev_facts(settings: Settings, request: RequestFacts, *, enabled: bool) -> DevFacts:
    """Gather the facts of one request under these settings; total over whatever headers were sent.

    ``enabled`` is the setting of the mode that would spare the request its credential.
    """
    headers = [(name.lower(), value) for name, value in request.headers]
    return DevFacts(
        enabled=enabled,
        env=settings.env,
        bind=settings.host,
        trusted_proxies=bool(settings.trusted_proxies),
        public_url_host=_host_of_url(settings.public_url),
        peer=request.peer,
        hosts=tuple(value for name, value in headers if name == b"host"),
        header_names=frozenset(name for name, _ in headers),
        fetch_sites=tuple(value for name, value in headers if name == b"sec-fetch-site"),
    )


def dev_principal_for(facts: DevFacts) -> Principal | None:
    """Return the person ``dev`` if every condition holds, else None.

    The mode is on, ``RELAY_ENV`` is local, bind, peer and the only ``Host`` are loopback, no proxy is trusted, no
    public URL is set; the request presents no credential, no ``Origin``, no sign of a proxy, and no browser says that
    another site caused it (a page elsewhere can make a browser send a GET without ``Origin``).
    """
    return dev_principal() if needs_no_credential(facts) else None


def needs_no_credential(facts: DevFacts) -> bool:
    """Say whether a mode that skips a credential may: all the conditions of :func:`dev_principal_for`."""
    return _settings_allow(facts) and _request_is_local(facts)


def is_direct_and_local(facts: DevFacts) -> bool:
    """Say whether a request that presents no credential comes from this machine by no proxy, whatever ``RELAY_ENV``.

    All the other conditions of :func:`dev_principal_for` hold: for what the operator may see without a token.
    """
    return _only_reachable_here(facts) and _request_is_local(facts)


def _settings_allow(facts: DevFacts) -> bool:
    return facts.env == "local" and _only_reachable_here(facts)


def _only_reachable_here(facts: DevFacts) -> bool:
    return (
        facts.enabled is True
        and is_loopback_host(facts.bind)
        and facts.trusted_proxies is False
        and (facts.public_url_host is None or is_loopback_host(facts.public_url_host))
    )


def _request_is_local(facts: DevFacts) -> bool:
    return (
        _is_loopback_address(facts.peer)
        and len(facts.hosts) == 1
        and _is_loopback_host_header(facts.hosts[0])
        and b"origin" not in facts.header_names
        and not facts.header_names & _CREDENTIALS
        and not is_forwarded(facts.header_names)
        and all(site in (b"none", b"same-origin") for site in facts.fetch_sites)
    )


def _is_loopback_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:  # a name, a path, nothing at all
        return False
    return is_loopback_host(text)


def _is_loopback_host_header(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    return match is not None and is_loopback_host(match[1].decode("ascii").strip("[]"))


def _host_of_url(url: str | None) -> str | None:
    if url is None:
        return None
    authority = url.partition("://")[2].partition("/")[0]
    match = _HOST.fullmatch(authority.encode("ascii", "replace"))
    return "" if match is None else match[1].decode("ascii").strip("[]")
