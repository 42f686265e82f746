"""Every check of ``relay doctor --url``, in the order in which it prints them. A new part adds its own in one line."""

from typing import Final

from relay.doctor.check import Check
from relay.doctor.outside import judge
from relay.doctor.outside.seen import Seen

CHECKS: Final[tuple[Check[Seen], ...]] = (
    Check(
        "reachable", "answers", "Relay answers here", "fail", judge.reachable, "look at the proxy and at relay serve"
    ),
    Check(
        "https", "address", "the address is one of https", "fail", judge.https, "put a reverse proxy with TLS in front"
    ),
    Check(
        "certificate",
        "TLS",
        "the certificate is trusted",
        "fail",
        judge.certificate,
        "get one for this name; --ca-file names authorities of your own",
    ),
    Check(
        "certificate-end",
        "TLS",
        "the certificate holds for a while",
        "fail",
        judge.certificate_end,
        "renew it, and see that it renews itself",
    ),
    Check(
        "tls-versions",
        "TLS",
        "only TLS 1.2 and 1.3 are spoken",
        "fail",
        judge.tls_versions,
        "ssl_protocols TLSv1.2 TLSv1.3; for every server of that address",
    ),
    Check(
        "hsts",
        "headers",
        "browsers are told to use https",
        "fail",
        judge.hsts,
        "RELAY_ENV=production and an https RELAY_PUBLIC_URL; let the proxy pass the header on",
    ),
    Check(
        "authentication",
        "every route",
        "every route demands a credential",
        "fail",
        judge.authentication,
        "stop this server: it is open",
    ),
    Check(
        "signatures",
        "webhooks",
        "an unsigned webhook is refused",
        "fail",
        judge.webhooks,
        "leave WEBHOOK_ALLOW_UNSIGNED out",
    ),
    Check(
        "rate-limits",
        "headers",
        "limits are told and refuse",
        "fail",
        judge.limits,
        "RATE_LIMIT_MODE=enforce; let the proxy pass the headers on",
    ),
    Check(
        "security-headers",
        "headers",
        "browsers are restrained",
        "fail",
        judge.security_headers,
        "let the proxy pass Relay's headers on as they are",
    ),
    Check(
        "foreign-pages",
        "CORS",
        "no foreign page may call",
        "fail",
        judge.cors,
        "name exact origins in CORS_ORIGINS, and set no such header in the proxy",
    ),
    Check(
        "metrics",
        "routes",
        "metrics are not public",
        "fail",
        judge.metrics,
        "set METRICS_TOKEN; the proxy must write X-Forwarded-For anew",
    ),
    Check(
        "docs",
        "routes",
        "the description of routes is not public",
        "fail",
        judge.docs,
        "leave RELAY_ENV out, or set it to production",
    ),
    Check(
        "silent-errors",
        "errors",
        "refusals say nothing of the inside",
        "fail",
        judge.errors,
        "let the proxy pass Relay's answers on; look in the log of whatever answered",
    ),
    Check(
        "server-header",
        "headers",
        "no answer names a version",
        "warn",
        judge.server_header,
        "server_tokens off; in nginx, and its like elsewhere",
    ),
    Check(
        "host-header",
        "hosts",
        "other hosts are not answered",
        "fail",
        judge.host,
        "set RELAY_PUBLIC_URL, and let the proxy pass Host on and refuse unknown hosts",
    ),
    Check("trace", "methods", "TRACE is refused", "fail", judge.methods, "switch TRACE off in the proxy"),
    Check(
        "security-txt",
        "routes",
        "weaknesses have an address",
        "warn",
        judge.security_txt,
        "set SECURITY_CONTACT, and let the proxy pass /.well-known/security.txt on",
    ),
    Check("server-clock", "headers", "its clock is right", "warn", judge.clock, "run an NTP client there, or here"),
)


def names() -> tuple[str, ...]:
    """Return the names of all checks."""
    return tuple(check.name for check in CHECKS)
