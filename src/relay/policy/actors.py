"""Who may turn the kill switch and set budgets, and for which keys: the rules that both share."""

from collections.abc import Mapping

from relay.core.principal import Principal
from relay.core.problem import Denied, NotFound, Unauthenticated
from relay.store.api_keys import ApiKeyRepository
from relay.store.kill_switch import has_key
from relay.store.writer import Tx

Services = Mapping[str, str]
"""Principals whose credential is a setting and not a row: by id the workspace that each acts in."""


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


def require_key(tx: Tx, workspace_id: str, key_id: str, services: Services) -> None:
    """Refuse what is neither a key of the workspace, ended or not, nor a service that acts in it (404)."""
    if services.get(key_id) != workspace_id and not has_key(tx, workspace_id, key_id):
        raise NotFound("There is no such key.")
