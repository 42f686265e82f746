"""First stage: is this an action, are its parameters right, and what exactly is the step?"""

from typing import Any, Final

from pydantic import BaseModel, ValidationError

from relay.catalog import ActionSpec, Catalog
from relay.core.action import Step
from relay.core.canonical import NotCanonical, canonical_json
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import InsufficientScope, Invalid
from relay.core.validation import invalid
from relay.crypto.digest import sha256_hex

NO_CONNECTION: Final = ""


def known_action(catalog: Catalog, name: str, pointer: str = "/action") -> ActionSpec:
    """Return the action of that name, or 422 at ``pointer``."""
    spec = catalog.get(name)
    if spec is None:
        message = f"There is no action of this name. GET /actions lists {len(list(catalog))}."
        raise Invalid(message, errors=[{"pointer": pointer, "message": message}])
    return spec


def require_scope(principal: Principal, spec: ActionSpec) -> None:
    """Refuse a principal that lacks the action's own scope."""
    if spec.scope not in principal.scopes:
        raise InsufficientScope((spec.scope,), frozenset({spec.scope}))


def valid_params(spec: ActionSpec, params: Any, prefix: str = "/params") -> BaseModel:
    """Return the parameters as the action's model, or 422 with pointers below ``prefix``."""
    try:
        return spec.params.model_validate(params)
    except ValidationError as error:
        raise invalid(error, prefix) from None


def make_step(principal: Principal, spec: ActionSpec, params: BaseModel, nonce: str | None = None) -> Step:
    """Return the step with its digest.

    The digest is SHA-256 over the canonical JSON (RFC 8785) of nonce, workspace, requester, action, version, connection
    and parameters with their defaults, attachments by their hashes; 64 lower-case hex digits.
    """
    nonce = nonce or new_id("nce")
    try:
        form = canonical_json(
            {
                "nonce": nonce,
                "workspace": principal.workspace_id,
                "requester": principal.id,
                "action": spec.name,
                "version": spec.version,
                "connection": NO_CONNECTION,
                "params": spec.digest_form(params),
            }
        )
    except NotCanonical:
        message = "The parameters have no canonical form: a number beyond ±(2^53−1) or text that is not Unicode."
        raise Invalid(message, errors=[{"pointer": "/params", "message": message}]) from None
    return Step(action=spec.name, version=spec.version, params=params, nonce=nonce, digest=sha256_hex(form))
