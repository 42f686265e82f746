"""Who calls: an API key, or in dev mode nobody from this very machine."""

from collections.abc import Callable
from typing import Protocol

from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import AddressNotAllowed, Unauthenticated
from relay.identity.credentials import credential_from


class Credentials(Protocol):
    """What the gate needs to know about API keys."""

    async def authenticate(self, key_text: str) -> Principal | None:
        """Return the principal of a live key, or None."""
        ...

    async def reload(self, credential_id: str) -> Principal | None:
        """Return the principal of a credential that is still alive, or None."""
        ...


class FailureCount(Protocol):
    """Counts failures of callers who are nobody yet."""

    def count(self, *, reason: str, route: str, client: str) -> None:
        """Count one failure."""
        ...


Anonymous = Callable[[RequestFacts], Principal | None]


class Authenticate:
    """Turns request facts into a principal, or 401. Why a credential failed is counted, never told."""

    def __init__(self, credentials: Credentials, failures: FailureCount, anonymous: Anonymous | None = None) -> None:
        self._credentials = credentials
        self._failures = failures
        self._anonymous = anonymous

    async def __call__(self, facts: RequestFacts) -> Principal:
        try:
            return await self._principal(facts)
        except Unauthenticated as refusal:
            self._failures.count(reason=refusal.reason, route=facts.route, client=facts.client)
            raise
        except AddressNotAllowed:
            self._failures.count(reason="address_not_allowed", route=facts.route, client=facts.client)
            raise

    async def _principal(self, facts: RequestFacts) -> Principal:
        key = credential_from(facts.headers)
        if key is None:
            principal = self._anonymous(facts) if self._anonymous is not None else None
            if principal is None:
                raise Unauthenticated(reason="missing_token")
            return principal
        principal = await self._credentials.authenticate(key)
        if principal is None:
            raise Unauthenticated("This API key is not valid: unknown, expired or revoked.")
        if principal.allowed_from is not None and not principal.allowed_from.admits(facts.client):
            raise AddressNotAllowed("This API key may not be used from your address.")
        return principal
