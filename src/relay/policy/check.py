"""Policy text becomes policies, or is refused with the place and the reason."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from cedarpy import PolicySet, Schema, ValidationError, pst, validate_policies

from relay.catalog import ActionSpec
from relay.policy.analysis import context_paths
from relay.policy.compiled import CompiledPolicies, Statement
from relay.policy.default import BASELINE_TEXT
from relay.policy.schema import CatalogSchema, schema_text
from relay.policy.text import Fragment, Places, PolicyRefused, Problem, fragments

__all__ = ["CatalogSchema", "PolicyRefused", "Problem", "compile_policies", "policy_schema"]

MAX_PROBLEMS: Final = 50

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,63}")
_QUOTED: Final = re.compile(r"`((?:[^`])+)`")
_PREFIX: Final = re.compile(r"^for policy `[^`]*`, ")
_FOR_ACTION: Final = re.compile(r'(?<= for )Relay::Action::"[^"]*"')
_NO_ACTION: Final = "unable to find an applicable action given the policy scope constraints"
_ADDRESS: Final = re.compile(r'"[^"@\s]*@[^"@\s]+"')


def policy_schema(catalog: Iterable[ActionSpec], operator_baseline: str = "") -> CatalogSchema:
    """Return what policies of this installation are written against, with the baseline that none of them can remove.

    The baseline is Relay's own rules and the operator's. :class:`PolicyRefused`, about ``operator_baseline``, when it
    does not check, or holds anything but ``forbid``.
    """
    specs = tuple(catalog)
    text = schema_text(specs)
    bare = CatalogSchema(
        text,
        Schema.from_str(text),
        frozenset(spec.name for spec in specs),
        frozenset(spec.connector for spec in specs),
    )
    own, _ = _statements(BASELINE_TEXT, bare, baseline=True)
    added, _ = _statements(operator_baseline, bare, baseline=True)
    return replace(bare, baseline=(*own, *added))


def compile_policies(text: str, catalog_schema: CatalogSchema) -> CompiledPolicies:
    """Return the policies of a workspace, the baseline among them, ready to decide.

    :class:`PolicyRefused` with every place and reason for a text that does not parse, does not type-check against the
    schema (Cedar's strict validation), uses templates, gives two policies the same ``@id``, or exceeds the bounds of
    :mod:`relay.policy.text`. It takes milliseconds to seconds of processor time: call it in a thread.
    """
    statements, warnings = _statements(text, catalog_schema, baseline=False)
    return CompiledPolicies((*catalog_schema.baseline, *statements), warnings)


def _statements(text: str, schema: CatalogSchema, *, baseline: bool) -> tuple[list[Statement], tuple[str, ...]]:
    checking = _Checking(text, schema, baseline=baseline)
    statements = checking.statements()
    if not checking.problems:
        checking.validate()
    if checking.problems:
        raise PolicyRefused(sorted(checking.problems, key=lambda found: (found.line, found.column))[:MAX_PROBLEMS])
    return statements, tuple(checking.warnings)


class _Checking:
    def __init__(self, text: str, schema: CatalogSchema, *, baseline: bool) -> None:
        self._schema = schema
        self._baseline = baseline
        self._places = Places(text)
        self._fragments = fragments(text)
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def statements(self) -> list[Statement]:
        """Parse every policy by itself, so that each that does not parse can be told."""
        found: list[Statement] = []
        names: dict[str, int] = {}
        for fragment in self._fragments:
            statement = self._statement(fragment)
            if statement is None:
                continue
            if statement.name in names:
                self._refuse(fragment.start, f"the policy in line {names[statement.name]} has the same @id")
            names.setdefault(statement.name, self._places.line(fragment.start))
            self._warn(statement, fragment)
            found.append(statement)
        return found

    def _statement(self, fragment: Fragment) -> Statement | None:
        try:
            syntax = PolicySet.from_str(fragment.text).to_pst()
        except ValueError as error:
            self._refuse(_place_of(str(error), fragment), str(error))
            return None
        if len(syntax.static_policies) != 1 or syntax.templates:
            self._refuse(fragment.start, "this is not a policy")
            return None
        (policy,) = syntax.static_policies.values()
        name = policy.annotations.get("id")
        if name is not None and not _NAME.fullmatch(name):
            self._refuse(fragment.start, "an @id is 1 to 64 letters, digits, spaces and any of ._:/-")
        if self._baseline and policy.effect != "forbid":
            self._refuse(fragment.start, "the baseline forbids; a permit has no place in it")
        return Statement(
            text=fragment.text,
            name=f'"{name}"' if name else f"the policy in {self._places.named(fragment.start)}",
            effect=policy.effect,
            baseline=self._baseline,
            syntax=policy,
            looks_at=context_paths(policy.clauses),
        )

    def validate(self) -> None:
        """Type-check each policy against every kind of request that it could match."""
        for fragment in self._fragments:
            result = validate_policies(fragment.text, self._schema.handle, release_gil=True)
            reasons = _reasons(result.errors)
            if not result.validation_passed and not reasons:
                self._refuse(fragment.start, "the policy does not type-check")
            if reasons == [_NO_ACTION] and self._is_of_a_group(fragment):
                line = self._places.line(fragment.start)
                self.warnings.append(f"line {line}: there is no action that this policy applies to")
                continue
            for reason in reasons:
                self._refuse(_place_of(reason, fragment), reason)

    def _is_of_a_group(self, fragment: Fragment) -> bool:
        """A group without members is no mistake: effects are always there, whatever the catalogue holds."""
        (policy,) = PolicySet.from_str(fragment.text).to_pst().static_policies.values()
        action = policy.action
        return isinstance(action, pst.ActionIn) and all(entity.id.startswith("effect:") for entity in action.entities)

    def _warn(self, statement: Statement, fragment: Fragment) -> None:
        line = self._places.line(fragment.start)
        if statement.effect == "permit" and isinstance(statement.syntax.action, pst.ScopeAny):
            self.warnings.append(f"line {line}: this permit is about every action, destructive ones included")
        if "id" not in statement.syntax.annotations:
            self.warnings.append(f"line {line}: without an @id, decisions can name this policy by its line only")
        for found in _ADDRESS.finditer(fragment.text):
            if found.group() != found.group().lower():
                where = self._places.line(fragment.start + found.start())
                self.warnings.append(f"line {where}: addresses are compared in lower case, so this one never matches")

    def _refuse(self, offset: int, reason: str) -> None:
        self.problems.append(self._places.problem(offset, reason))


def _reasons(errors: Iterable[ValidationError]) -> list[str]:
    """Return what is wrong, once for all the actions that it is wrong for, in an order that is always the same."""
    actions: dict[str, list[str]] = {}
    for error in errors:
        reason = _PREFIX.sub("", error.error)
        found = _FOR_ACTION.search(reason)
        about = reason if found is None else reason.replace(found.group(), "\0")
        actions.setdefault(about, []).extend([] if found is None else [found.group()])
    if len(actions) > 1:
        actions.pop(_NO_ACTION, None)
    return sorted(about.replace("\0", _listed(sorted(set(named)))) for about, named in actions.items())


def _listed(names: list[str]) -> str:
    return "".join(names[:1]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _place_of(reason: str, fragment: Fragment) -> int:
    """Return the offset that Cedar's message is about: that of the first name which it quotes and the policy has."""
    if "unexpected end" in reason:
        return fragment.start + len(fragment.text)
    for quoted in (*_QUOTED.findall(reason), *reason.rsplit(": ", 1)[1:]):
        for wanted in (quoted, quoted.rpartition("::")[2], quoted.rpartition(".")[2]):
            at = re.search(rf"(?<![A-Za-z0-9_]){re.escape(wanted)}(?![A-Za-z0-9_])", fragment.text)
            if at is not None:
                return fragment.start + at.start()
    return fragment.start
