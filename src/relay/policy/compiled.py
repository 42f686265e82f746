"""Policies ready to decide: parsed once, and sliced so that a decision meets only those that could match it."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from cedarpy import PolicySet, pst

from relay.policy.analysis import COUNTERS, EVERYTHING, Path, may_act, may_match, named_principal

MAX_REMEMBERED: Final = 1024
MAX_SLICES: Final = 2048

_NOBODY: Final = ""
AGREEMENT: Final[frozenset[Path]] = frozenset({("approved",), ("approvals",), ("other_person",), EVERYTHING})
"""What of the context changes with who has agreed; all else stays as it is from one demand to the next."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy: its text, and what it is called in reasons, which is its ``@id`` or else the line it begins in."""

    text: str
    name: str
    effect: Literal["permit", "forbid"]
    baseline: bool
    syntax: pst.Template = field(repr=False)
    looks_at: frozenset[Path]

    @property
    def looks_at_agreement(self) -> bool:
        """Whether who has agreed may change what it says."""
        return not AGREEMENT.isdisjoint(self.looks_at)

    @property
    def called(self) -> str:
        """The policy as a reason speaks of it."""
        return f"{self.name} of the baseline" if self.baseline else self.name

    @property
    def label(self) -> str:
        """The policy as programs are told of it: its ``@id`` or its line, after ``baseline:`` if it belongs there."""
        label = self.name.strip('"')
        return f"baseline:{label}" if self.baseline else label

    def could_match(self, kind: str, principal_id: str, names: tuple[str, ...], connector: str) -> bool:
        """Say whether its scope may let such a request through; never False when it would."""
        return (
            may_act(self.syntax.action, names)
            and may_match(self.syntax.principal, kind, principal_id)
            and may_match(self.syntax.resource, "Relay::Connector", connector)
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """The policies that could match one kind of request. ``looks_at`` is all that they read of the context.

    ``counts``: counters are among it. ``agreed`` are those of them that are enough to decide about the same request
    under another agreement, once no forbid among the others matches: None where that is all of them.
    """

    number: int
    policies: PolicySet = field(repr=False)
    statements: dict[str, Statement]
    looks_at: tuple[Path, ...]
    counts: bool
    agreed: "Slice | None" = None

    @property
    def permits(self) -> bool:
        """Whether there is a permit among them; without one nothing can be allowed."""
        return any(statement.effect == "permit" for statement in self.statements.values())


class CompiledPolicies:
    """A workspace's policies together with the baseline; fixed once made, by ``compile_policies`` alone.

    ``warnings`` are sentences about what is allowed but surely not meant. ``counts`` says that one of them at least may
    look at counters. What was decided is remembered by all that it
    was decided upon, here and nowhere else, so that it goes with the version that it belongs to. Threads may share it.
    """

    def __init__(self, statements: Iterable[Statement], warnings: tuple[str, ...] = ()) -> None:
        self.statements = tuple(statements)
        _require_order(self.statements)
        self.warnings = warnings
        self.counts = any(_counts(statement.looks_at) for statement in self.statements)
        self._remembered: dict[Any, Any] = {}
        self._numbers = itertools.count()
        self._named = frozenset(filter(None, (named_principal(found.syntax.principal) for found in self.statements)))
        self._by_request: dict[tuple[str, str, tuple[str, ...], str], Slice] = {}
        self._by_members: dict[tuple[int, ...], Slice] = {}

    def __len__(self) -> int:
        return len(self.statements)

    def slice(self, kind: str, principal_id: str, action: str, groups: tuple[str, ...], connector: str) -> Slice:
        """Return the policies that could match: all others would be skipped by their scope, without an error.

        ``kind`` is the principal's entity type, ``groups`` are those of the action.
        """
        names = (action, *groups)
        key = (kind, principal_id if principal_id in self._named else _NOBODY, names, connector)
        found = self._by_request.get(key)
        if found is None:
            members = tuple(
                number
                for number, statement in enumerate(self.statements)
                if statement.could_match(kind, key[1], names, connector)
            )
            if len(self._by_request) >= MAX_SLICES:
                self._by_request.clear()
                self._by_members.clear()
            found = self._by_members.get(members) or self._by_members.setdefault(members, self._cut(members))
            self._by_request[key] = found
        return found

    def _cut(self, members: tuple[int, ...]) -> Slice:
        chosen = [self.statements[number] for number in members]
        # Of a permit that a forbid outweighs Cedar does not say whether it matched, so they are asked again.
        agreed = [found for found in chosen if found.effect == "permit" or found.looks_at_agreement]
        return self._of(chosen, self._of(agreed) if len(agreed) < len(chosen) else None)

    def _of(self, chosen: list[Statement], agreed: Slice | None = None) -> Slice:
        paths = frozenset[Path]().union(*(statement.looks_at for statement in chosen))
        looks_at = (EVERYTHING,) if EVERYTHING in paths else tuple(sorted(paths))
        return Slice(next(self._numbers), _parsed(chosen), _numbered(chosen), looks_at, _counts(paths), agreed)

    def known(self, key: Any) -> Any:
        """Return what was remembered, None when there is nothing."""
        return self._remembered.get(key)

    def remember(self, key: Any, value: Any) -> None:
        """Keep a result; when there are too many, all that were kept go first."""
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = value


def _counts(paths: Iterable[Path]) -> bool:
    return any(path == EVERYTHING or path[0] == COUNTERS for path in paths)


def _parsed(statements: Iterable[Statement]) -> PolicySet:
    return PolicySet.from_str("\n".join(statement.text for statement in statements))


def _numbered(statements: Iterable[Statement]) -> dict[str, Statement]:
    """Return the policies by the ids that Cedar gives them, which numbers them as they come."""
    return {f"policy{place}": statement for place, statement in enumerate(statements)}


def _require_order(statements: tuple[Statement, ...]) -> None:
    """Prove that on the whole text: with other numbers, reasons and errors would be about other policies."""
    parsed = _parsed(statements).to_pst().static_policies
    named = _numbered(statements)
    if parsed.keys() != named.keys() or any(
        replace(parsed[policy_id], id="") != replace(statement.syntax, id="") for policy_id, statement in named.items()
    ):
        raise RuntimeError("Cedar has numbered the policies in another order than they stand in")
