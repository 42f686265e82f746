"""Tests of policies: a TOML file of cases, each a question with the decision that it must meet."""

import tomllib
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from relay.cli.policy_desk import Desk
from relay.core.action import Decision
from relay.core.circumstances import Circumstances
from relay.core.clock import MICROSECONDS, MINUTE, now
from relay.core.origins import Origins
from relay.core.pointer import pointer_of
from relay.core.principal import Principal, PrincipalKind, expand_scopes
from relay.core.problem import Invalid
from relay.gate.validate import known_action, make_step, valid_params
from relay.policy.compiled import CompiledPolicies
from relay.policy.context import inputs_of
from relay.policy.engine import evaluate
from relay.policy.inputs import DecisionInputs
from relay.policy.source import Active
from relay.store.attempt_counts import MOST_COUNTED, Counts

MAX_FILE_BYTES: Final = 1024 * 1024
_SUPPOSED: Final = "supposed"


class CasesRefused(ValueError):
    """The file holds no cases that can be tried; the message says what is wrong with it."""


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Who(_In):
    """A principal that is supposed. ``scopes`` are scopes or bundles; without ``key_age_minutes`` it is not known."""

    kind: PrincipalKind = "agent"
    id: Annotated[str, Field(min_length=1, max_length=100)] = "key_of_the_case"
    workspace: Annotated[str, Field(min_length=1, max_length=63)] = "default"
    scopes: list[str] = ["developer"]
    made_by: list[str] = []
    key_age_minutes: Annotated[int, Field(ge=0, le=10_000_000)] | None = None

    @field_validator("scopes")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        expand_scopes(value)
        return value

    def principal(self, at: int) -> Principal:
        """Return the principal as it would stand before the gate at that time."""
        credential = self.id
        if self.key_age_minutes is not None:
            made = max(0, at - self.key_age_minutes * MINUTE) // 1000
            credential = f"key_{made:012x}{'0' * 20}"
        return Principal(
            id=self.id,
            kind=self.kind,
            workspace_id=self.workspace,
            scopes=frozenset(expand_scopes(self.scopes)),
            credential_id=credential,
            made_by=tuple(self.made_by),
            auth_method="api_key",
        )


class From(_In):
    """Where parameters are supposed to have come from: for each kind of source the names of those that hold some."""

    user: frozenset[str] = frozenset()
    context: frozenset[str] = frozenset()
    result: frozenset[str] = frozenset()
    untrusted: frozenset[str] = frozenset()
    attachment: frozenset[str] = frozenset()
    model: frozenset[str] = frozenset()


class When(_In):
    """What is supposed besides; ``at`` is a time with its offset, now by default."""

    at: datetime | None = None
    client: Annotated[str, Field(max_length=64)] = ""
    approvals: Annotated[int, Field(ge=0, le=100)] = 0
    other_person: bool = False
    untrusted_content: bool = False
    origins: From | None = None

    @field_validator("at")
    @classmethod
    def _with_offset(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("the time needs an offset, for instance a trailing Z")
        return value

    def circumstances(self) -> Circumstances:
        """Return what the policy is told."""
        at = now() if self.at is None else int(self.at.timestamp()) * MICROSECONDS + self.at.microsecond
        return Circumstances(
            at,
            self.client,
            self.approvals,
            self.other_person,
            self.untrusted_content,
            asked_at=None if self.at is None else at,
            origins=None if self.origins is None else Origins.of(self.origins.model_dump()),
        )


class Counted(_In):
    """How much the principal of a case has done."""

    actions_today: Annotated[int, Field(ge=0, le=MOST_COUNTED)] = 0
    actions_last_hour: Annotated[int, Field(ge=0, le=MOST_COUNTED)] = 0
    same_action_today: Annotated[int, Field(ge=0, le=MOST_COUNTED)] = 0


class Supposed(When):
    """What is supposed besides in a case, which has no database to count in."""

    counters: Counted = Counted()

    def counts(self) -> Counts:
        """Return what the policy is told of them."""
        return Counts(**self.counters.model_dump())


class Question(_In):
    """What is asked for, and when."""

    action: str
    params: dict[str, Any] = {}
    context: When = When()


class Case(Question):
    """A question, who asks it, and the decision that it must meet, with who must agree where that matters."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    principal: Who = Who()
    context: Supposed = Supposed()
    expect: Literal["allow", "deny", "require_approval"]
    approvers: Annotated[int, Field(ge=1, le=5)] | None = None
    other_person: bool | None = None


class CaseFile(_In):
    """``policies`` is the file that is tested, beside this one; it can be named on the command line instead."""

    policies: str | None = None
    case: Annotated[list[Case], Field(min_length=1, max_length=10_000)]


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a case. ``wrong`` is empty where the decision is the expected one."""

    name: str
    decision: Decision | None
    wrong: str


def parse_cases(text: str) -> CaseFile:
    """Return the cases of a TOML file; :class:`CasesRefused` says what is wrong, and never quotes a value."""
    try:
        return CaseFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CasesRefused(str(error)) from None
    except ValidationError as error:
        raise CasesRefused(told(error)) from None


def told(error: ValidationError) -> str:
    """Return what pydantic found as one line."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{pointer_of(item['loc']) or '/'}: {item['msg']}" for item in found[:10])


def put(question: Question, principal: Principal, circumstances: Circumstances, desk: Desk) -> DecisionInputs:
    """Return what a question is decided upon, without counters; 422 for an action or parameters that are none."""
    spec = known_action(desk.catalog, question.action)
    step = make_step(principal, spec, valid_params(spec, question.params))
    return inputs_of(principal, spec, step, circumstances, desk.reach)


def try_case(case: Case, desk: Desk, policies: CompiledPolicies) -> Tried:
    """Put a case to policies."""
    circumstances = case.context.circumstances()
    principal = case.principal.principal(circumstances.at)
    try:
        asked = put(case, principal, circumstances, desk).with_counters(case.context.counts())
    except Invalid as error:
        places = "; ".join(f"{found['pointer']}: {found['message']}" for found in error.extensions["errors"])
        return Tried(case.name, None, places)
    decision = evaluate(asked, Active(_SUPPOSED, 0, policies))
    return Tried(case.name, decision, _difference(case, decision))


def _difference(case: Case, decision: Decision) -> str:
    if decision.effect != case.expect:
        return f"expected {case.expect}, got {decision.effect}: {decision.reason}"
    if case.approvers is not None and decision.approvers != case.approvers:
        return f"expected {case.approvers} approvers, got {decision.approvers}: {decision.reason}"
    if case.other_person is not None and decision.other_person != case.other_person:
        return f"expected other_person {case.other_person}, got {decision.other_person}: {decision.reason}"
    return ""
