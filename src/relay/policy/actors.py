"""Who may turn the kill switch and set budgets: the rules that both share."""

from relay.core.principal import Principal
from relay.core.problem import Denied, Unauthenticated
from relay.store.api_keys import ApiKeyRepository
from relay.store.writer import Tx


def require_person(actor: Principal, what: str) -> None:
    """Refuse whoever is no person (403): an agent must not widen what it may do itself."""
    if actor.kind != "person":
        raise Denied(f"Only a person can {what}.")


def require_living(tx: Tx, actor: Principal, moment: int) -> None:
    """Refuse a key that was revoked while its request was under way (401)."""
    if actor.auth_method != "api_key":
        return
    own = ApiKeyRepository(tx, actor.workspace_id).find(actor.credential_id)
    if own is None or not own.lives(moment):
        raise Unauthenticated
