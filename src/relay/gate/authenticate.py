"""Who calls: an API key, or in dev mode nobody from this very machine."""

from collections.abc import Callable
from typing import Protocol

from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import AddressNotAllowed, Unauthenticated
from relay.identity.credentials import INVALID_KEY, credential_from


class Credentials(Protocol):
    """What the gate needs to know about API keys."""

    async def authenticate(self, key_text: str, client: str = "") -> Principal | None:
        """Return the principal of a live key, or None. ``client`` is the caller's address.

        :class:`~relay.core.problem.Unauthenticated` where the count of failures is to know a reason of its own.
        """
        ...

    async def reload(self, credential_id: str) -> Principal | None:
        """Return the principal of a credential that is still alive, or None."""
        ...

    async def honey_action_used(self, principal: Principal, action: str, *, request_id: str, client: str) -> None:
        """Take a credential out of use, durably, which has asked for a honey action; ``client`` is its address."""
        ...


class FailureCount(Protocol):
    """Counts failures of callers who are nobody yet."""

    def count(self, *, reason: str, route: str, client: str) -> None:
        """Count one failure."""
        ...


class Onlooker(Protocol):
    """Learns how credentials are used. What it does must neither wait nor raise."""

    def admitted(self, principal: Principal, client: str) -> None:
        """Take in that a request of a principal comes from an address."""
        ...

    def refused(self, key_text: str, client: str) -> None:
        """Take in that a key was not valid."""
        ...


class Nobody:
    """Looks at nothing."""

    def admitted(self, principal: Principal, client: str) -> None:
        """Look away."""

    def refused(self, key_text: str, client: str) -> None:
        """Look away."""


Anonymous = Callable[[RequestFacts], Principal | None]


class Authenticate:
    """Turns request facts into a principal, or 401. Why a credential failed is counted, never told."""

    def __init__(
        self,
        credentials: Credentials,
        failures: FailureCount,
        anonymous: Anonymous | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        self._credentials = credentials
        self._failures = failures
        self._anonymous = anonymous
        self._onlooker = onlooker or Nobody()

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
        principal = await self._credentials.authenticate(key, facts.client)
        if principal is None:
            self._onlooker.refused(key, facts.client)
            raise Unauthenticated(INVALID_KEY)
        if principal.allowed_from is not None and not principal.allowed_from.admits(facts.client):
            raise AddressNotAllowed("This API key may not be used from your address.")
        self._onlooker.admitted(principal, facts.client)
        return principal
