"""Who operates the installation: whoever holds its token, or calls from the machine itself."""

from collections.abc import Callable
from typing import Final

from relay.core.facts import RequestFacts
from relay.core.problem import Unauthenticated
from relay.crypto.digest import equal
from relay.gate.authenticate import FailureCount

_DETAIL: Final = "This needs the operator's token: Authorization: Bearer …"


class RequireOperator:
    """Admits the operator, or 401. No API key opens what is the operator's, whatever its scopes.

    ``token`` is the bearer that admits, None when there is none. ``is_local`` says whether a request that presents no
    credential comes directly from this machine.
    """

    def __init__(self, token: str | None, is_local: Callable[[RequestFacts], bool], failures: FailureCount) -> None:
        self._token = None if token is None else token.encode()
        self._is_local = is_local
        self._failures = failures

    def __call__(self, facts: RequestFacts) -> None:
        """Refuse with :class:`~relay.core.problem.Unauthenticated` whoever is not the operator."""
        if self._is_local(facts) or self._shows_token(facts):
            return
        reason = "invalid_token" if _shows_anything(facts) else "missing_token"
        self._failures.count(reason=reason, route=facts.route, client=facts.client)
        raise Unauthenticated(_DETAIL, reason=reason)

    def _shows_token(self, facts: RequestFacts) -> bool:
        value = facts.header(b"authorization")
        if self._token is None or value is None or facts.header(b"x-api-key") is not None:
            return False
        scheme, _, shown = value.strip(b" \t").partition(b" ")
        return scheme.lower() == b"bearer" and equal(shown.strip(b" \t"), self._token)


def _shows_anything(facts: RequestFacts) -> bool:
    return any(name in (b"authorization", b"x-api-key") for name, _ in facts.headers)
