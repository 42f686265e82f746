"""What a stranger must not find, each a pure function over :class:`~relay.doctor.outside.seen.Seen`."""

import json
import re
from email.utils import parsedate_to_datetime
from typing import Final

from relay.core.clock import MICROSECONDS, parse_iso
from relay.doctor.check import some
from relay.doctor.outside.ask import STRANGER
from relay.doctor.outside.seen import Seen, said
from relay.egress.probe import Reply

_DAYS: Final = 86_400
_CERTIFICATE_DAYS: Final = 14
_HSTS_DAYS: Final = 180
_CLOCK_SECONDS: Final = 30
_MAX_AGE: Final = re.compile(r"max-age\s*=\s*\"?([0-9]{1,12})", re.IGNORECASE)
_TALKS: Final = re.compile(
    rb"Traceback \(most recent|File \"[^\"]+\", line [0-9]|\.py:[0-9]+|sqlalchemy|psycopg|sqlite3\.|site-packages"
    rb"|\b(?:nginx|apache|caddy|uvicorn|gunicorn|python|werkzeug|envoy|openresty|starlette|fastapi)/[0-9]",
    re.IGNORECASE,
)
_VERSIONED: Final = re.compile(r"/[0-9]|[0-9]+\.[0-9]+")
_WANTED: Final = {
    "content-security-policy": ("default-src 'none'", "frame-ancestors 'none'"),
    "x-content-type-options": ("nosniff",),
    "x-frame-options": ("deny",),
    "referrer-policy": ("",),
    "cache-control": ("no-store",),
}


def reachable(seen: Seen) -> str | None:
    """Relay answers under this very address."""
    if seen.unreachable is not None:
        return seen.unreachable
    health, version = seen.reply("health"), seen.reply("version")
    for path, reply in (("/health", health), ("/version", version)):
        if 300 <= reply.status < 400:
            return f"{path} redirects to {_place(reply)}: ask that address"
    if health.status != 200 or _json(health).get("status") != "ok":
        return f"/health {said(health)}, not as Relay answers"
    return None if _json(version).get("name") == "relay" else f"/version {said(version)}, not as Relay answers"


def _place(reply: Reply) -> str:
    # Of what a stranger's server writes, no more than a host is shown.
    found = re.match(r"https?://([A-Za-z0-9.:\[\]-]{1,253})(?:/|$)", reply.headers.get("location", ""))
    return found[1] if found else "somewhere else"


def _json(reply: Reply) -> dict[str, object]:
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def https(seen: Seen) -> str | None:
    """The address is one of https."""
    return None if seen.https else "the address begins with http://: keys would cross the network in the clear"


def certificate(seen: Seen) -> str | None:
    """The certificate verifies for this name."""
    return None if seen.tls.distrust is None else f"the certificate is not trusted: {seen.tls.distrust}"


def certificate_end(seen: Seen) -> str | None:
    """The certificate is good for a while."""
    ends_at = seen.tls.ends_at
    if ends_at is None:
        return "it is not known how long the certificate holds, since it does not verify"
    days = (ends_at - seen.at) / _DAYS
    return None if days > _CERTIFICATE_DAYS else f"the certificate ends in {days:.0f} days"


def tls_versions(seen: Seen) -> str | None:
    """TLS is spoken in versions 1.2 and 1.3 alone."""
    return "TLS 1.1 or older is spoken" if seen.tls.old_accepted else None


def hsts(seen: Seen) -> str | None:
    """Browsers are told to use https and nothing else."""
    reply = seen.reply("version")
    _ = seen.tls  # plain HTTP is a finding of its own
    header = reply.headers.get("strict-transport-security", "")
    age = _MAX_AGE.search(header)
    if age is None:
        return "there is no Strict-Transport-Security header"
    return None if int(age[1]) >= _HSTS_DAYS * _DAYS else f"Strict-Transport-Security holds for {int(age[1])} s only"


def authentication(seen: Seen) -> str | None:
    """Every route that wants a credential refuses who has none."""
    seen.require_reached()
    statuses = {route: reply.status for route, reply in seen.guarded.items()}
    held_up = [route for route, status in statuses.items() if status in (0, 429, 503)]
    wrong = [route for route, status in statuses.items() if status not in (0, 401, 404, 429, 503)]
    if wrong:
        return f"answered without a credential: {some(wrong)}"
    if held_up:
        return f"not answered, so not known: {some(held_up)}; ask again in some minutes"
    # Another version has other routes, and ACTIONS_ENABLED=false takes some away; but not all.
    return None if 401 in statuses.values() else "no route asks for a credential: this is not Relay"


def webhooks(seen: Seen) -> str | None:
    """A webhook without a signature is refused."""
    reply = seen.reply("webhook")
    if reply.status == 401 and "signature" in str(_json(reply).get("detail", "")):
        return None
    if reply.status == 503 and _json(reply):
        return None  # no secret is set, so that everything is refused
    return f"POST /webhooks/relay without a signature {said(reply)}"


def limits(seen: Seen) -> str | None:
    """Answers tell the limits, and in a burst one refuses."""
    reply = seen.reply("version")
    if reply.status != 429 and not {"ratelimit", "ratelimit-policy"} <= reply.headers.keys():
        return "answers carry no RateLimit headers"
    refused = [reply for reply in seen.burst if reply.status == 429]
    if seen.burst and not refused:
        return f"{len(seen.burst)} requests in one go were all let through"
    if any("retry-after" not in reply.headers for reply in refused):
        return "a refusal for too many requests does not say when to come back"
    return None


def security_headers(seen: Seen) -> str | None:
    """Answers and refusals carry the headers that restrain browsers."""
    for name in ("version", "error-missing"):
        headers = seen.reply(name).headers
        wrong = [wanted for wanted, parts in _WANTED.items() if not _holds(headers.get(wanted), parts)]
        if wrong:
            return f"missing or weaker than Relay's own: {some(wrong)}"
    return None


def _holds(value: str | None, parts: tuple[str, ...]) -> bool:
    return value is not None and all(part in value.lower() for part in parts)


def cors(seen: Seen) -> str | None:
    """No foreign page may call."""
    for name in ("cors", "cors-null", "cors-preflight"):
        allowed = seen.reply(name).headers.get("access-control-allow-origin")
        if allowed in ("*", "null", STRANGER):
            return f"a page of any origin may call: Access-Control-Allow-Origin is {allowed}"
    return None


def metrics(seen: Seen) -> str | None:
    """Metrics are not for strangers."""
    for name, how in (("metrics", ""), ("metrics-local", " that claims to come from this machine")):
        if 200 <= (reply := seen.reply(name)).status < 300:
            return f"GET /metrics without a token{how} {said(reply)}"
    return None


def docs(seen: Seen) -> str | None:
    """The description of the routes is not for strangers."""
    opened = [path for name, path in _DOCS.items() if 200 <= seen.reply(name).status < 300]
    return f"open to everybody: {some(opened)}" if opened else None


_DOCS: Final = {"docs": "/docs", "openapi": "/openapi.json"}


def errors(seen: Seen) -> str | None:
    """Refusals say nothing of what is inside."""
    for name, reply in seen.replies.items():
        closed = reply.status == 503 and bool(_json(reply))  # what is not set up, or away, says so
        if reply.status >= 500 and not closed:
            return f"the probe {name} {said(reply)}"
        if reply.status >= 400 and _TALKS.search(reply.body):
            return f"the answer to the probe {name} names files, libraries or versions"
    kind = seen.reply("error-missing").headers.get("content-type", "")
    if not kind.startswith("application/problem+json"):
        return "what does not exist is not answered with a problem document"
    return None


def server_header(seen: Seen) -> str | None:
    """No answer names the version of what serves it."""
    for reply in seen.replies.values():
        for name in ("server", "x-powered-by", "via"):
            value = reply.headers.get(name, "")
            if _VERSIONED.search(value) and name != "via":
                return f"answers name a version in {name.title()}"
    seen.require_reached()
    return None


def host(seen: Seen) -> str | None:
    """A name that somebody else points here is not answered."""
    reply = seen.reply("host")
    return f"a request for another host {said(reply)}" if 200 <= reply.status < 400 else None


def methods(seen: Seen) -> str | None:
    """``TRACE`` shows nobody the headers that a proxy added."""
    reply = seen.reply("trace")
    return f"TRACE {said(reply)}" if 200 <= reply.status < 400 or b"x-relay-doctor" in reply.body.lower() else None


def security_txt(seen: Seen) -> str | None:
    """Whoever finds a weakness learns whom to tell (RFC 9116)."""
    reply = seen.reply("security-txt")
    lines = dict(_field(line) for line in reply.body.decode("utf-8", "replace").splitlines() if ":" in line)
    if reply.status != 200 or not lines.get("contact"):
        return f"/.well-known/security.txt {said(reply)} and names no contact"
    try:
        ends = parse_iso(lines.get("expires", "")) / MICROSECONDS
    except ValueError:
        return "/.well-known/security.txt says no date until which it holds"
    return None if ends > seen.at else "/.well-known/security.txt has expired"


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def clock(seen: Seen) -> str | None:
    """The server's clock is right."""
    text = seen.reply("health").headers.get("date", "")
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return "answers carry no date"
    off = at - seen.at
    return f"its clock and this one's differ by {abs(off):.0f} s" if abs(off) > _CLOCK_SECONDS else None
