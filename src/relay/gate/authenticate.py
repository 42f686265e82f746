"""Who calls: an API key, on some routes the key of a door, or in dev mode nobody from this very machine."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from relay.core.access import Door
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import AddressNotAllowed, Unauthenticated, Unavailable
from relay.identity.credentials import INVALID_KEY, credential_from
from relay.store.writer import StoreUnavailable


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


async def reason_to_end(
    credentials: Credentials, principal: Principal, client: str, scopes: frozenset[str] = frozenset()
) -> str | None:
    """Return why a caller who was admitted may not go on watching, None while it may.

    The credential is alive, may be used from ``client`` and still holds ``scopes``; where nobody can say, that is a
    reason too.
    """
    try:
        alive = await credentials.reload(principal.credential_id)
    except (StoreUnavailable, Unavailable):
        return "unavailable"
    if alive is None:
        return "credential_revoked"
    if alive.allowed_from is not None and not alive.allowed_from.admits(client):
        return "address_not_allowed"
    return "scope_removed" if alive.missing(scopes) else None


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


class Doorkeeper(Protocol):
    """Knows who comes through a door."""

    def by_key(self, key_text: str) -> Principal | None:
        """Return the principal that the door's own key stands for, None for any other text."""
        ...

    def without_key(self, facts: RequestFacts) -> Principal | None:
        """Return whom a request without any credential lets in, None where it lets in nobody.

        :class:`~relay.core.problem.Unauthenticated` where the caller is to know what would be let in.
        """
        ...


Anonymous = Callable[[RequestFacts], Principal | None]


class Authenticate:
    """Turns request facts into a principal, or 401. Why a credential failed is counted, never told.

    ``doors`` are what opens routes besides API keys; each opens those alone that name it.
    """

    def __init__(
        self,
        credentials: Credentials,
        failures: FailureCount,
        anonymous: Anonymous | None = None,
        onlooker: Onlooker | None = None,
        doors: Mapping[Door, Doorkeeper] | None = None,
    ) -> None:
        self._credentials = credentials
        self._failures = failures
        self._anonymous = anonymous
        self._onlooker = onlooker or Nobody()
        self._doors = dict(doors or {})

    async def __call__(self, facts: RequestFacts, doors: Collection[Door] = ()) -> Principal:
        """Return who calls a route that ``doors`` open too."""
        keepers = [self._doors[door] for door in doors if door in self._doors]
        try:
            return await self._principal(facts, keepers)
        except Unauthenticated as refusal:
            self._failures.count(reason=refusal.reason, route=facts.route, client=facts.client)
            raise
        except AddressNotAllowed:
            self._failures.count(reason="address_not_allowed", route=facts.route, client=facts.client)
            raise

    async def _principal(self, facts: RequestFacts, keepers: Collection[Doorkeeper]) -> Principal:
        key = credential_from(facts.headers)
        if key is None:
            return await self._without_key(facts, keepers)
        for keeper in keepers:
            if (known := keeper.by_key(key)) is not None:
                return await self._let_in(known, facts)
        principal = await self._credentials.authenticate(key, facts.client)
        if principal is None:
            self._onlooker.refused(key, facts.client)
            raise Unauthenticated(INVALID_KEY)
        _require_network(principal, facts)
        self._onlooker.admitted(principal, facts.client)
        return principal

    async def _let_in(self, known: Principal, facts: RequestFacts) -> Principal:
        """Return who comes through a door as they stand now, if they may from where they are."""
        principal = await self._credentials.reload(known.credential_id)
        if principal is None:
            raise Unauthenticated(INVALID_KEY)
        _require_network(principal, facts)
        return principal

    async def _without_key(self, facts: RequestFacts, keepers: Collection[Doorkeeper]) -> Principal:
        principal = self._anonymous(facts) if self._anonymous is not None else None
        if principal is not None:
            return principal
        for keeper in keepers:
            if (known := keeper.without_key(facts)) is not None:
                return await self._let_in(known, facts)
        raise Unauthenticated(reason="missing_token")


def _require_network(principal: Principal, facts: RequestFacts) -> None:
    if principal.allowed_from is not None and not principal.allowed_from.admits(facts.client):
        raise AddressNotAllowed("This API key may not be used from your address.")
