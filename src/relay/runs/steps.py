"""Steps before they run: putting them in order, checking them against the catalogue, and their common digest."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json, to_json

from relay.catalog import ActionSpec
from relay.core.action import Decision
from relay.core.canonical import NotCanonical, canonical_json
from relay.core.circumstances import Circumstances
from relay.core.clock import now
from relay.core.principal import Principal
from relay.core.problem import Invalid
from relay.core.references import BadReference, Path, Reference, find_references
from relay.core.stand_ins import stand_in
from relay.crypto.digest import sha256_hex
from relay.gate.perform import Performer

MAX_STEPS: Final = 20
MAX_RETRIES: Final = 5
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class StepDraft:
    """A step as somebody asks for it. Without an id it goes by its place: ``s1``, ``s2``, …

    ``timeout_seconds`` bounds each try, by the action's own time-out when None; ``retries`` is how many more tries
    there may be where trying again cannot do anything twice.
    """

    action: str
    params: dict[str, Any]
    id: str | None = None
    depends_on: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class RunStep:
    """A step with its place in the order fixed. ``depends_on`` names every earlier step that it refers to, too."""

    id: str
    action: str
    params: dict[str, Any]
    depends_on: tuple[str, ...]
    timeout_seconds: float | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ConsideredStep:
    """A step that the gate has validated and decided, with its parameters as they may be shown."""

    step: RunStep
    spec: ActionSpec
    decision: Decision
    shown: dict[str, Any]
    summary: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is sealed of a plan or run: the nonce of its digest, its steps, and from where a run was ordered.

    ``client`` is an address as text, empty when unknown. ``traceparent`` is the trace that the order is part of, empty
    when it is not recorded.
    """

    nonce: str
    steps: tuple[RunStep, ...]
    client: str = ""
    traceparent: str = ""


def arrange(drafts: Sequence[StepDraft]) -> tuple[RunStep, ...]:
    """Return the steps in their order, or 422 with pointers below ``/steps``.

    There are 1 to :data:`MAX_STEPS`, their ids are distinct, and each depends on and refers to earlier ones only.
    """
    if not 1 <= len(drafts) <= MAX_STEPS:
        raise _wrong("/steps", f"A run has 1 to {MAX_STEPS} steps.")
    steps: list[RunStep] = []
    earlier: set[str] = set()
    for place, draft in enumerate(drafts):
        step = _arranged(draft, f"s{place + 1}", f"/steps/{place}", earlier)
        earlier.add(step.id)
        steps.append(step)
    return tuple(steps)


def _arranged(draft: StepDraft, default_id: str, pointer: str, earlier: set[str]) -> RunStep:
    step_id = default_id if draft.id is None else draft.id
    if not _ID.fullmatch(step_id):
        raise _wrong(pointer + "/id", "A step's id has 1 to 64 letters, digits, hyphens or underscores.")
    if step_id in earlier:
        raise _wrong(pointer + "/id", f"Another step is called {step_id}.")
    _require_canonical(draft.params, pointer)
    references = _references(draft.params, pointer)
    for place, name in enumerate(draft.depends_on):
        if name not in earlier:
            raise _wrong(f"{pointer}/depends_on/{place}", "A step depends on earlier steps only.")
    for reference in references:
        if reference.step_id not in earlier:
            where = BadReference(reference.path, "").place
            raise _wrong(f"{pointer}/params{where}", "A step refers to the results of earlier steps only.")
    names = dict.fromkeys([*draft.depends_on, *(reference.step_id for reference in references)])
    if not 0 <= draft.retries <= MAX_RETRIES:
        raise _wrong(pointer + "/retries", f"A step may be retried up to {MAX_RETRIES} times.")
    if draft.timeout_seconds is not None and not draft.timeout_seconds > 0:
        raise _wrong(pointer + "/timeout_seconds", "A time-out is longer than 0 seconds.")
    return RunStep(step_id, draft.action, draft.params, tuple(names), draft.timeout_seconds, draft.retries)


def _require_canonical(params: dict[str, Any], pointer: str) -> None:
    try:
        canonical_json(params)
    except NotCanonical:
        message = "The parameters have no canonical form: a number beyond ±(2^53−1) or text that is not Unicode."
        raise _wrong(pointer + "/params", message) from None


def _references(params: dict[str, Any], pointer: str) -> tuple[Reference, ...]:
    try:
        return find_references(params)
    except BadReference as error:
        raise _wrong(f"{pointer}/params{error.place}", str(error)) from None


def steered(steps: Sequence[RunStep], trusted: Collection[str]) -> list[bool]:
    """Say of each step whether content from outside may have had a say in it.

    It may have from the first step on that refers to a result of an action not in ``trusted``, the actions whose
    results hold nothing from outside: what comes after it in the order depends on what that step did.
    """
    outside: set[str] = set()
    found: list[bool] = []
    reached = False
    for step in steps:
        reached = reached or any(reference.step_id in outside for reference in find_references(step.params))
        found.append(reached)
        if step.action not in trusted:
            outside.add(step.id)
    return found


async def consider(
    gate: Performer, principal: Principal, steps: Sequence[RunStep], client: str, request_id: str
) -> list[ConsideredStep]:
    """Validate and decide every step without writing anything, or 422 with pointers below ``/steps``.

    ``client`` is the address of who asks, which policy may look at, ``request_id`` the request in which they do.

    A step with references is considered with stand-ins for them (see ``stand_ins``): its decision is a forecast,
    and its summary is the action's own. The gate decides again, on the real values, when its turn comes.
    """
    known = {spec.name: spec for spec in await gate.visible(principal)}
    asking = _Asking(gate, principal, known, request_id)
    trusted = {name for name, spec in known.items() if not spec.untrusted_result}
    considered: list[ConsideredStep] = []
    for place, (step, untrusted) in enumerate(zip(steps, steered(steps, trusted), strict=True)):
        circumstances = Circumstances(now(), client, untrusted_content=untrusted)
        considered.append(await _considered(asking, step, f"/steps/{place}", circumstances))
    return considered


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who asks whom, of which actions that they could run, in which request."""

    gate: Performer
    principal: Principal
    known: dict[str, ActionSpec]
    request_id: str


async def _considered(asking: _Asking, step: RunStep, pointer: str, circumstances: Circumstances) -> ConsideredStep:
    references = find_references(step.params)
    params = step.params
    if references:
        spec = asking.known.get(step.action)
        if spec is None:
            raise _wrong(pointer + "/action", "There is no action of this name that you could run.")
        params = stand_in(params, references, spec.params, pointer + "/params")
    considered = await asking.gate.consider(
        asking.principal,
        step.action,
        params,
        pointer,
        circumstances=circumstances,
        request_id=asking.request_id,
    )
    if step.timeout_seconds is not None and step.timeout_seconds > considered.spec.timeout:
        message = f"{step.action} takes {considered.spec.timeout:g} seconds at most."
        raise _wrong(pointer + "/timeout_seconds", message)
    shown = considered.spec.redact(considered.step.params)
    for reference in references:
        _put(shown, reference.path, _member(step.params, reference.path))
    summary = considered.spec.summary if references else considered.rendering.summary
    return ConsideredStep(step, considered.spec, considered.decision, shown, summary)


def _member(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _put(value: Any, path: Path, member: Any) -> None:
    """Put ``member`` where ``path`` leads, unless the redaction has taken that place away."""
    try:
        _member(value, path)
        _member(value, path[:-1])[path[-1]] = member
    except (KeyError, IndexError, TypeError):
        return


def plan_digest(workspace_id: str, principal_id: str, nonce: str, steps: Iterable[RunStep]) -> str:
    """Return SHA-256 over the canonical JSON (RFC 8785) of workspace, principal, nonce and steps, in hex."""
    form = {
        "workspace": workspace_id,
        "principal": principal_id,
        "nonce": nonce,
        "steps": [as_json(step) for step in steps],
    }
    return sha256_hex(canonical_json(form))


def as_json(step: RunStep) -> dict[str, Any]:
    """Return a step as plain JSON, without the options that were left out."""
    plain: dict[str, Any] = {
        "id": step.id,
        "action": step.action,
        "params": step.params,
        "depends_on": list(step.depends_on),
    }
    if step.timeout_seconds is not None:
        plain["timeout_seconds"] = step.timeout_seconds
    if step.retries:
        plain["retries"] = step.retries
    return plain


def pack(inputs: Inputs) -> bytes:
    """Return inputs as they are sealed."""
    plain: dict[str, Any] = {"nonce": inputs.nonce, "steps": [as_json(step) for step in inputs.steps]}
    if inputs.client:
        plain["client"] = inputs.client
    if inputs.traceparent:
        plain["traceparent"] = inputs.traceparent
    return to_json(plain)


def unpack(packed: bytes) -> Inputs:
    """Return what :func:`pack` was given. Where no client was sealed, it is unknown."""
    content = from_json(packed)
    steps = tuple(_step(value) for value in content["steps"])
    return Inputs(content["nonce"], steps, content.get("client", ""), content.get("traceparent", ""))


def _step(plain: dict[str, Any]) -> RunStep:
    return RunStep(
        plain["id"],
        plain["action"],
        plain["params"],
        tuple(plain["depends_on"]),
        plain.get("timeout_seconds"),
        plain.get("retries", 0),
    )


def _wrong(pointer: str, message: str) -> Invalid:
    return Invalid(message, errors=[{"pointer": pointer, "message": message}])
