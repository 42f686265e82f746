"""What of a model's steps may be proposed: each is looked at on its own, and refused with a reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from relay.catalog import ActionSpec
from relay.core.canonical import NotCanonical, canonical_json
from relay.core.hidden import code_point, hidden_in
from relay.core.plan import PlanStep
from relay.core.problem import Invalid
from relay.core.references import BadReference, Reference, find_references
from relay.core.stand_ins import stand_in
from relay.planning.describing import summary_of
from relay.planning.grounds import Grounds
from relay.planning.naming import names_of, texts_of
from relay.planning.profile import Profile, profile_of
from relay.planning.unclear import shortened, shown
from relay.telemetry.redaction import HIDDEN

MAX_STEPS: Final = 20

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MEMBERS: Final = frozenset({"id", "action", "params", "depends_on", "summary"})
_MAX_NAMED: Final = 3
_MAX_REASON: Final = 300
# What stand-ins bring along where a destination is a reference; nothing can be reached by these names (RFC 2606).
_STOOD_IN: Final = frozenset({"result@example.invalid", "example.invalid"})


@dataclass(frozen=True, slots=True)
class Kept:
    """A step that may be proposed, and its action's profile.

    ``hosts`` are those of its hosts that the prompt names, ``from_context`` those of its hosts and recipients that the
    context alone does.
    """

    step: PlanStep
    profile: Profile
    hosts: tuple[str, ...]
    from_context: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A step that may not be proposed, and why. ``action`` is what the model called it, "" for no name at all."""

    step_id: str
    action: str
    reason: str

    def __str__(self) -> str:
        named = f"{self.step_id} ({shortened(self.action, 60)})" if self.action else self.step_id
        return f"{named} was left out: {shortened(self.reason, _MAX_REASON)}."


@dataclass(frozen=True, slots=True)
class Checked:
    """A model's steps, sorted. What is kept is valid as a whole: see :func:`check`."""

    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]


_profile_of = lru_cache(maxsize=2048)(profile_of)


class _Bad(Exception):
    """Why a step may not be proposed."""


def check(steps: Sequence[Any], actions: Sequence[ActionSpec], grounds: Grounds, *, withheld: bool = False) -> Checked:
    """Sort a model's steps, which may be any JSON values, into those that may be proposed and those that may not.

    Each step that is kept names one of ``actions`` that is no trap, has parameters that its schema accepts and that
    have a canonical form, depends on and refers to kept steps before it alone, and has no recipient or host but those
    of ``grounds`` and of references. Nor does it hold characters that nobody sees, which no caller can have sent, or,
    where credentials were ``withheld`` from the model, what stood in their place. At most :data:`MAX_STEPS` are kept.
    Whatever needs a step that is dropped is dropped with it. Never raises.
    """
    checking = _Checking({spec.name: spec for spec in actions if not spec.honey}, grounds, withheld)
    for place, value in enumerate(steps, 1):
        checking.look_at(value, f"s{place}")
    return Checked(tuple(checking.kept), tuple(checking.dropped))


@dataclass
class _Checking:
    actions: Mapping[str, ActionSpec]
    grounds: Grounds
    withheld: bool
    kept: list[Kept] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    ids: dict[str, bool] = field(default_factory=dict)

    def look_at(self, value: Any, default_id: str) -> None:
        """Keep a step or drop it."""
        step_id, action = default_id, ""
        try:
            members = _members(value)
            action = members["action"]
            step_id = self._own_id(members, default_id)
            kept = self._kept(members, step_id)
        except _Bad as bad:
            self.ids.setdefault(step_id, False)
            self.dropped.append(Dropped(step_id, action, str(bad)))
        else:
            self.ids[step_id] = True
            self.kept.append(kept)

    def _own_id(self, members: Mapping[str, Any], default_id: str) -> str:
        step_id = members.get("id", default_id)
        if not isinstance(step_id, str) or not _ID.fullmatch(step_id):
            raise _Bad("its id is none")
        if step_id in self.ids:
            raise _Bad(f"another step is called {step_id}")
        return step_id

    def _kept(self, members: Mapping[str, Any], step_id: str) -> Kept:
        if len(self.kept) == MAX_STEPS:
            raise _Bad(f"a plan has at most {MAX_STEPS} steps")
        spec = self.actions.get(members["action"])
        if spec is None:
            raise _Bad("there is no such action that you may run")
        params = members["params"]
        references = _references(params)
        self._require_readable(params)
        needs = self._needs(members.get("depends_on", []), references)
        exposed = spec.expose(_validated(spec, params, references))
        from_context = self._grounded({*exposed.recipients, *exposed.hosts}, references)
        profile = _profile_of(spec)
        step = PlanStep(step_id, spec.name, params, summary_of(profile, params), needs)
        hosts = tuple(sorted(host for host in exposed.hosts if self.grounds.of(host) == "prompt"))
        return Kept(step, profile, hosts, from_context)

    def _require_readable(self, params: Mapping[str, Any]) -> None:
        for text in (*texts_of(params), *names_of(params)):
            if (found := hidden_in(text)) is not None:
                raise _Bad(f"its parameters hold a character that nobody sees, {code_point(found.group()[0])}")
            if self.withheld and HIDDEN in text:
                raise _Bad(f"it holds {HIDDEN}, which stood for a credential that the model was not shown")

    def _needs(self, depends_on: Any, references: Sequence[Reference]) -> tuple[str, ...]:
        if not isinstance(depends_on, list) or not all(isinstance(name, str) for name in depends_on):
            raise _Bad("what it depends on is no list of steps")
        needs = tuple(dict.fromkeys([*depends_on, *(reference.step_id for reference in references)]))
        for name in needs:
            known = self.ids.get(name)
            if known is None:
                raise _Bad(f"it needs {shown(name, 40)}, which is no step before it")
            if not known:
                raise _Bad(f"it needs {name}, which was left out")
        return needs

    def _grounded(self, destinations: set[str], references: Sequence[Reference]) -> tuple[str, ...]:
        if references:
            destinations = destinations - _STOOD_IN
        grounds = {name: self.grounds.of(name) for name in sorted(destinations)}
        invented = [name for name, ground in grounds.items() if ground is None]
        if invented:
            raise _Bad(f"nobody asked for {_listed(invented)}: your own words do not name it, nor does the context")
        return tuple(name for name, ground in grounds.items() if ground == "context")


def _members(value: Any) -> Mapping[str, Any]:
    """Return a step whose members are known ones and whose action and parameters are of the right kind."""
    if not isinstance(value, dict):
        raise _Bad("it is not a JSON object")
    if not isinstance(value.get("action"), str):
        raise _Bad("it names no action")
    if extra := value.keys() - _MEMBERS:
        raise _Bad(f"it has members that mean nothing: {_listed(sorted(extra))}")
    if not isinstance(value.get("params"), dict):
        raise _Bad("it has no parameters")
    return value


def _references(params: dict[str, Any]) -> tuple[Reference, ...]:
    try:
        canonical_json(params)
    except NotCanonical:
        raise _Bad("its parameters hold a number beyond ±(2^53−1) or text that is not Unicode") from None
    try:
        return find_references(params)
    except BadReference as error:
        raise _Bad(f"{error.place or 'a reference'}: {str(error).rstrip('.')}") from None


def _validated(spec: ActionSpec, params: dict[str, Any], references: Sequence[Reference]) -> BaseModel:
    """Return parameters as the action's model, with stand-ins for what earlier steps return."""
    try:
        return spec.params.model_validate(stand_in(params, references, spec.params, "") if references else params)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise _Bad(_said([(".".join(map(str, item["loc"])), item["msg"]) for item in found])) from None
    except Invalid as problem:
        errors = problem.extensions.get("errors", ())
        raise _Bad(_said([(item["pointer"].lstrip("/"), item["message"]) for item in errors])) from None


def _said(errors: Sequence[tuple[str, str]]) -> str:
    """Say what a schema does not accept. Places are the model's words, so they are shown as such."""
    said = [f"{shown(place, 40) if place else 'the whole'}: {shortened(message, 120)}" for place, message in errors]
    return f"its parameters do not fit: {'; '.join(said[:_MAX_NAMED]).rstrip('.')}"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(shown(name, 80) for name in names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
