"""Everything that a decision is made upon, in a form that can be kept and decided upon again."""

import json
from collections.abc import Set
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from relay.catalog import ActionSpec
from relay.core.canonical import canonical_json
from relay.core.principal import Principal, PrincipalKind
from relay.policy.analysis import COUNTERS
from relay.store.attempt_counts import Counts

FORMAT: Final = 1
encode_json: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
# Canonical for what contexts are made of: names in ASCII, and no numbers but whole ones that RFC 8785 can represent.
_sorted: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode
_SHAPE: Final = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class PrincipalFacts:
    """The principal as policies see it."""

    __pydantic_config__ = _SHAPE

    kind: PrincipalKind
    id: str
    workspace: str
    scopes: tuple[str, ...]
    made_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionFacts:
    """The action as policies see it: an entry of the catalogue with its groups."""

    __pydantic_config__ = _SHAPE

    name: str
    version: int
    connector: str
    effect: str
    scope: str

    @property
    def groups(self) -> tuple[str, str]:
        """The groups that the action belongs to."""
        return f"connector:{self.connector}", f"effect:{self.effect}"


@lru_cache(maxsize=2048)
def _canonical(facts: PrincipalFacts | ActionFacts) -> bytes:
    members = {part.name: getattr(facts, part.name) for part in fields(facts)}
    return canonical_json({name: list(value) if type(value) is tuple else value for name, value in members.items()})


@dataclass(frozen=True, slots=True)
class DecisionInputs:
    """What a decision is made upon.

    ``context`` is Cedar's context as JSON, but for what depends on who has agreed: ``approvals`` counts the persons who
    have, ``other_person`` says that one of them at least had no part in making the requester's key. Counters are in it
    only where they have been read.
    """

    principal: PrincipalFacts
    action: ActionFacts
    context: dict[str, Any]
    approvals: int = 0
    other_person: bool = False

    @property
    def counted(self) -> bool:
        """Whether counters have been read."""
        return COUNTERS in self.context

    def with_counters(self, counts: Counts) -> Self:
        """Return the same with these counters."""
        return replace(self, context={**self.context, COUNTERS: asdict(counts)})

    def encode(self) -> bytes:
        """Return the inputs as canonical JSON (RFC 8785); :func:`decode_inputs` reads it."""
        # Members in their canonical order; those that come again and again are serialised once.
        return b'{"action":%b,"approvals":%d,"context":%b,"format":%d,"other_person":%b,"principal":%b}' % (
            _canonical(self.action),
            self.approvals,
            _sorted(self.context).encode(),
            FORMAT,
            b"true" if self.other_person else b"false",
            _canonical(self.principal),
        )


class _Recorded(BaseModel):
    model_config = _SHAPE

    format: Literal[1]
    principal: PrincipalFacts
    action: ActionFacts
    context: dict[str, JsonValue]
    approvals: int
    other_person: bool


_RECORDED: Final = TypeAdapter(_Recorded)


def decode_inputs(data: bytes) -> DecisionInputs:
    """Return the inputs that :meth:`DecisionInputs.encode` wrote; ValueError for anything else."""
    found = _RECORDED.validate_json(data)
    return DecisionInputs(found.principal, found.action, dict(found.context), found.approvals, found.other_person)


def principal_facts(principal: Principal) -> PrincipalFacts:
    """Return what policies see of a principal."""
    return PrincipalFacts(
        principal.kind, principal.id, principal.workspace_id, _in_order(principal.scopes), principal.made_by
    )


@lru_cache(maxsize=1024)
def _in_order(scopes: Set[str]) -> tuple[str, ...]:
    return tuple(sorted(scopes))


@lru_cache(maxsize=1024)
def _action_facts(name: str, version: int, connector: str, effect: str, scope: str) -> ActionFacts:
    return ActionFacts(name, version, connector, effect, scope)


def action_facts(spec: ActionSpec) -> ActionFacts:
    """Return what policies see of an entry of the catalogue."""
    return _action_facts(spec.name, spec.version, spec.connector, spec.effect, spec.scope)
