"""What a parsed policy looks at: which principals, actions and resources it can match, and what of the context.

All of it errs on one side: a policy may be said to match, or to look at something, when it does not; never the reverse.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from cedarpy import pst

Path = tuple[str, ...]
EVERYTHING: Final[Path] = ()
COUNTERS: Final = "counters"
RECORDS: Final = frozenset({COUNTERS, "credential", "origins", "params", "time"})
"""The context's attributes that are records themselves."""


def type_name(kind: pst.EntityType) -> str:
    """Return an entity type as it is written in a policy: ``Relay::Agent``."""
    return "::".join((*kind.namespace, kind.basename))


def may_match(constraint: Any, kind: str, entity_id: str) -> bool:
    """Say whether the scope of a policy lets this principal or resource through, as far as type and id can tell."""
    match constraint:
        case pst.ScopeEq(entity=pst.EntityUid(type=wanted, id=wanted_id)):
            return type_name(wanted) == kind and wanted_id == entity_id
        case pst.ScopeIs(entity_type=wanted) | pst.ScopeIsIn(entity_type=wanted):
            return type_name(wanted) == kind
        case _:
            return True


def may_act(constraint: Any, names: tuple[str, ...]) -> bool:
    """Say whether the scope lets an action through whose own name and groups are ``names``."""
    match constraint:
        case pst.ActionEq(entity=wanted):
            return wanted.id in names
        case pst.ActionIn(entities=several):
            return any(wanted.id in names for wanted in several)
        case _:
            return True


def named_principal(constraint: Any) -> str | None:
    """Return the id of the one principal that the scope names, else None."""
    match constraint:
        case pst.ScopeEq(entity=pst.EntityUid(id=found)):
            return str(found)
        case _:
            return None


def context_paths(clauses: object) -> frozenset[Path]:
    """Return what of the context is looked at: attributes, or attributes of its records; EVERYTHING for all of it."""
    found: set[Path] = set()
    _collect(clauses, found)
    return frozenset({EVERYTHING}) if EVERYTHING in found else frozenset(found)


def _collect(node: object, found: set[Path]) -> None:
    path = _path(node)
    if path is not None:
        found.add(path)
    elif isinstance(node, Mapping):
        for member in node.values():
            _collect(member, found)
    elif isinstance(node, tuple):
        for member in node:
            _collect(member, found)
    elif is_dataclass(node):
        for part in fields(node):
            _collect(getattr(node, part.name), found)


def _path(node: object) -> Path | None:
    """Return what of the context ``node`` stands for; None when it is something else, whose parts may be looked at."""
    match node:
        case pst.Var(name="context"):
            return EVERYTHING
        case pst.GetAttr(base=pst.Var(name="context"), attr=name):
            return (name,)
        case pst.HasAttr(base=pst.Var(name="context"), attrs=names):
            return names[:2] if names[0] in RECORDS else names[:1]
        case pst.GetAttr(base=pst.GetAttr(base=pst.Var(name="context"), attr=record), attr=name) if record in RECORDS:
            return (record, name)
        case pst.HasAttr(base=pst.GetAttr(base=pst.Var(name="context"), attr=record), attrs=names) if record in RECORDS:
            return (record, names[0])
        case _:
            return None
