"""Problems (RFC 9457): one class for every way in which Relay says no.

``detail`` is written for the caller and never echoes a secret or an upstream body. Each class has a heading in
``docs/errors.md``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from relay.core.clock import MICROSECONDS, iso, now

TYPE_BASE = "urn:relay:problem:"


class Problem(Exception):
    """A refusal with its HTTP status, a stable slug, a title and typed extensions.

    Raise a subclass. ``extensions`` become members of the problem document, ``headers`` go onto the answer.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    type_uri: ClassVar[str | None] = None
    """The type where it is not Relay's own but registered with IANA."""

    def __init__(self, detail: str = "", *, headers: Mapping[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.headers = dict(headers or {})
        self.extensions = extensions

    def document(self, instance: str, request_id: str) -> dict[str, Any]:
        """Return the problem document for one request."""
        return {
            "type": self.type_uri or TYPE_BASE + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
            **self.extensions,
        }


class BadRequest(Problem):
    """The request cannot be understood: broken JSON, a malformed header."""

    status, slug, title = 400, "bad-request", "Bad request"


class Unauthenticated(Problem):
    """No credential, or one that is malformed, unknown, expired or revoked; which of these is never said."""

    status, slug, title = 401, "unauthenticated", "Authentication required"

    def __init__(self, detail: str = "", *, reason: str = "invalid_token") -> None:
        challenge = 'Bearer realm="relay"'
        if reason != "missing_token":
            challenge += ', error="invalid_token"'
        super().__init__(
            detail or "This needs an API key: Authorization: Bearer relay_sk_…",
            headers={"WWW-Authenticate": challenge},
        )
        self.reason = reason


class BadSignature(Unauthenticated):
    """A webhook without a signature that verifies, for whatever reason; which part failed is never said."""

    status, slug, title = 401, "bad-signature", "Signature required"

    def __init__(self, *, reason: str) -> None:
        super().__init__("This needs a valid webhook signature, and there is none.", reason=reason)
        self.headers["WWW-Authenticate"] = 'Signature realm="relay"'


class InsufficientScope(Problem):
    """The credential lacks a scope that the route or the action needs."""

    status, slug, title = 403, "insufficient-scope", "Missing scope"

    def __init__(self, missing: tuple[str, ...], required: frozenset[str]) -> None:
        super().__init__(
            f"This key lacks {', '.join(missing)}.", required_scopes=sorted(required), missing_scopes=list(missing)
        )


class Denied(Problem):
    """Policy does not allow this step."""

    status, slug, title = 403, "denied", "Not allowed"


class Stopped(Problem):
    """The kill switch is on for the workspace, the key, the action, the connector, or for everything."""

    status, slug, title = 403, "stopped", "Stopped"


class OverBudget(Problem):
    """This alone takes more than a budget allows in a whole day; waiting does not help."""

    status, slug, title = 403, "over-budget", "More than the budget of a day"


class NotApprover(Problem):
    """The caller may not decide this request: no person, the requester, or a credential that the requester made."""

    status, slug, title = 403, "not-approver", "Not for you to decide"


class AddressNotAllowed(Problem):
    """The credential may not be used from the caller's address; from which it may is not said."""

    status, slug, title = 403, "address-not-allowed", "Not allowed from this address"


class HttpsRequired(Problem):
    """The request came over plain HTTP to an installation whose public URL is https."""

    status, slug, title = 403, "https-required", "HTTPS required"


class EgressDenied(Problem):
    """The destination is one that Relay does not connect to."""

    status, slug, title = 403, "egress-denied", "Destination not allowed"


class NotFound(Problem):
    """There is no such thing, or it belongs to another workspace."""

    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The route exists under another method."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"


class RequestTimeout(Problem):
    """The body did not arrive in time."""

    status, slug, title = 408, "request-timeout", "The request took too long to arrive"


class Conflict(Problem):
    """The request contradicts something that has already happened."""

    status, slug, title = 409, "conflict", "Conflict"


class IdempotencyMismatch(Problem):
    """The idempotency key was used with another request before."""

    status, slug, title = 409, "idempotency-mismatch", "Idempotency key used with another request"


class InProgress(Problem):
    """A twin of this request is still running."""

    status, slug, title = 409, "in-progress", "The same request is still running"


class DigestMismatch(Problem):
    """The digest of a decision is not that of the step: what was looked at is not what would run."""

    status, slug, title = 409, "digest-mismatch", "Another digest"


class AlreadyDecided(Problem):
    """The request for approval has ended, or this person has agreed to it; ``approval_status`` says how it stands."""

    status, slug, title = 409, "already-decided", "Already decided"


class StateChanged(Problem):
    """What the step changes is not as it was when the step was previewed or asked for; nothing was executed."""

    status, slug, title = 409, "state-changed", "Changed in the meantime"


class Gone(Problem):
    """The preview or plan has expired or was used."""

    status, slug, title = 410, "gone", "Expired or used"


class BodyTooLarge(Problem):
    """The body exceeds the route's cap."""

    status, slug, title = 413, "body-too-large", "Body too large"


class UnsupportedMediaType(Problem):
    """The body is not of the media type that the route reads."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class Misdirected(Problem):
    """``Host`` names a server that this is not."""

    status, slug, title = 421, "misdirected-request", "Wrong host"


class Invalid(Problem):
    """The body is well-formed but not valid; ``errors`` lists each place as a JSON Pointer (RFC 6901)."""

    status, slug, title = 422, "invalid", "Not valid"


class TooManyStreams(Problem):
    """The principal has as many event streams open as it may."""

    status, slug, title = 429, "too-many-streams", "Too many open streams"


class Limited(Problem):
    """Too much at once, or too often. ``retry_after`` is true: whoever waits that long gets through."""

    def __init__(self, what: str, *, retry_after: int, **extensions: Any) -> None:
        super().__init__(what, **extensions)
        self._what = what
        self.retry_after = 0
        self.postpone(retry_after)

    def postpone(self, seconds: int) -> None:
        """Name a later time when an earlier check of the same request could not be passed again before it."""
        self.retry_after = max(self.retry_after, seconds, 1)
        at = iso((now() // MICROSECONDS + self.retry_after) * MICROSECONDS).partition(".")[0]
        self.detail = f"{self._what} Try again in {self.retry_after} s, at {at}Z."
        self.extensions["retry_after"] = self.retry_after
        self.headers["Retry-After"] = str(self.retry_after)


class QuotaExceeded(Limited):
    """A rate limit is used up (draft-ietf-httpapi-ratelimit-headers, "Problem Types")."""

    status, slug, title = 429, "quota-exceeded", "Rate limit reached"
    type_uri = "https://iana.org/assignments/http-problem-types#quota-exceeded"

    def __init__(self, what: str, *, policies: Sequence[str], retry_after: int) -> None:
        super().__init__(what, retry_after=retry_after, **{"violated-policies": list(policies)})


class TooManyRunning(Limited):
    """As many attempts of this action are under way in the workspace as may be, or another replay of policies is."""

    status, slug, title = 429, "too-many-running", "Too many running at once"


class BudgetExhausted(Limited):
    """A budget has too little left for this until the UTC day ends; ``budget`` says which."""

    status, slug, title = 429, "budget-exhausted", "Budget used up"


class SpendingExhausted(Problem):
    """What models may cost has too little left; ``budget`` says where.

    ``day``: for the principal until the UTC day ends, with ``retry_after``. ``session``: for good.
    """

    status, slug, title = 429, "spending-exhausted", "Spending budget used up"


class TooManyWaiting(Limited):
    """As many requests of the key, or of the workspace, wait for approval as may; nothing was kept."""

    status, slug, title = 429, "too-many-waiting", "Too many waiting for approval"


class HeadTooLarge(Problem):
    """The request line or the headers are longer, or more, than Relay reads."""

    status, slug, title = 431, "head-too-large", "Request head too large"


class Internal(Problem):
    """Something broke inside; the request id leads to it in the log."""

    status, slug, title = 500, "internal", "Internal error"


class UpstreamRefused(Problem):
    """The outside world refused the action; nothing more will happen."""

    status, slug, title = 502, "upstream-refused", "The other side refused"


class Unavailable(Problem):
    """Relay cannot do this safely now (the database is away, the disk is full); nothing was executed."""

    status, slug, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str = "", *, retry_after: int = 5, **extensions: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)}, retry_after=retry_after, **extensions)


class ModelUnavailable(Problem):
    """No language model answers: it is down, too slow, too busy, or asked too much at once. Nothing was executed."""

    status, slug, title = 503, "model-unavailable", "No model answers"

    def __init__(self, detail: str = "", *, retry_after: int = 5, **extensions: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)}, retry_after=retry_after, **extensions)


class OutcomeUnknown(Problem):
    """The effect may have happened; it is not repeated. ``attempt_id`` leads to what is known."""

    status, slug, title = 504, "outcome-unknown", "Outcome unknown"


def all_problems() -> list[type[Problem]]:
    """Return every problem class that says how it is shown, in order of status and slug."""
    found, waiting = [], list(Problem.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if "slug" in vars(kind):
            found.append(kind)
    return sorted(found, key=lambda kind: (kind.status, kind.slug))
