"""What a model may answer to the planner's table of prompts: right, subtly wrong or absurd, by lot from a seed."""

import json
import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, Literal

from relay.core.plan import Proposal
from tests.unit.planner_prompts import CASES, Case

Kind = Literal["right", "subtle", "absurd"]
Steps = list[dict[str, Any]]

SHARES: Final[dict[Kind, float]] = {"right": 0.6, "subtle": 0.25, "absurd": 0.15}
ATTACKER: Final = "mallory@attacker.example"

_URL: Final = re.compile(r"https?://[^\s\"'<>`]+")
_ADDRESS: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_QUOTED: Final = re.compile(r"[\"“']([^\"”']+)[\"”']")


@dataclass(frozen=True)
class Said:
    """An answer to the prompt of a case. ``arguments`` are those of the function, as text."""

    case: Case
    kind: Kind
    arguments: str


def expected(case: Case) -> Steps:
    """Return the steps that a case asks for, as a model would write them."""
    return [
        {"action": step.action, "params": deepcopy(step.params), "depends_on": list(step.after)} for step in case.steps
    ]


def is_right(case: Case, proposal: Proposal) -> bool:
    """Say whether a proposal is what the case asks for: the same actions with the same parameters in the same order."""
    return [(step.action, step.params) for step in proposal.steps] == [
        (step.action, step.params) for step in case.steps
    ]


def answers(seed: int, rounds: int = 1) -> Iterator[Said]:
    """Yield an answer for each prompt of the table that a caller can send, in each of ``rounds``."""
    lots = random.Random(seed)
    for _ in range(rounds):
        for case in CASES:
            kind: Kind = lots.choices(list(SHARES), list(SHARES.values()))[0]
            yield Said(case, kind, _answer(case, kind, lots))


def _answer(case: Case, kind: Kind, lots: random.Random) -> str:
    if kind == "absurd":
        return _absurd(case, lots)
    return _written(expected(case) if kind == "right" else _subtle(case, lots))


def _written(steps: Steps) -> str:
    return json.dumps({"steps": steps, "explanation": "As you asked." if steps else "Nothing here can be done."})


def _subtle(case: Case, lots: random.Random) -> Steps:
    """Return a plan that is nearly the right one, or takes a prompt at its words that asks for nothing."""
    if not case.steps:
        return _naive(case.prompt, lots)
    steps = expected(case)
    changes = [change for change in _CHANGES if change(deepcopy(steps), random.Random(0))]
    changed = deepcopy(steps)
    lots.choice(changes)(changed, lots)
    return changed


def _naive(prompt: str, lots: random.Random) -> Steps:
    """Read a prompt as a hasty model would: whatever it says, its address or URL is for sending something to."""
    quoted = [found for found in _QUOTED.findall(prompt) if not _ADDRESS.search(found)]
    if urls := _URL.findall(prompt):
        return [{"action": "http.request", "params": {"method": "GET", "url": urls[0].rstrip(".,?!;")}}]
    to = _ADDRESS.findall(prompt) or ["somebody@example.com"]
    subject, text = (*quoted, "Hello", "As discussed.")[:2]
    return [{"action": "email.send", "params": {"to": to[: lots.randint(1, 2)], "subject": subject, "text": text}}]


def _other_words(steps: Steps, lots: random.Random) -> bool:
    for step in steps:
        for name in ("text", "subject", "message", "body"):
            if isinstance(step["params"].get(name), str):
                step["params"][name] += lots.choice(
                    (" Kind regards", ", as agreed", " (urgent)", " Thanks in advance!")
                )
                return True
    return False


def _swapped(steps: Steps, lots: random.Random) -> bool:
    for step in steps:
        params = step["params"]
        if isinstance(params.get("text"), str) and "subject" in params and params["text"] != params["subject"]:
            params["text"], params["subject"] = params["subject"], params["text"]
            return True
    return False


def _fewer_recipients(steps: Steps, lots: random.Random) -> bool:
    for step in steps:
        for name in ("bcc", "cc", "to"):
            if len(step["params"].get(name, ())) > (name == "to"):
                step["params"][name].pop()
                return True
    return False


def _other_method(steps: Steps, lots: random.Random) -> bool:
    for step in steps:
        if step["action"] == "http.request":
            step["params"]["method"] = {"GET": "DELETE", "POST": "PUT"}.get(step["params"]["method"], "POST")
            return True
    return False


def _other_path(steps: Steps, lots: random.Random) -> bool:
    for step in steps:
        if "url" in step["params"]:
            step["params"]["url"] = step["params"]["url"].split("?")[0] + "/v2"
            return True
    return False


def _without_last(steps: Steps, lots: random.Random) -> bool:
    if len(steps) > 1:
        steps.pop()
        return True
    return False


def _once_more(steps: Steps, lots: random.Random) -> bool:
    steps.append(deepcopy(steps[-1]))
    return True


def _without_body(steps: Steps, lots: random.Random) -> bool:
    return any(step["params"].pop("json", None) is not None for step in steps)


def _other_value(steps: Steps, lots: random.Random) -> bool:
    for step in steps:
        for name in ("json", "payload"):
            if isinstance(step["params"].get(name), dict) and step["params"][name]:
                step["params"][name]["checked"] = True
                return True
    return False


_CHANGES: Final[tuple[Callable[[Steps, random.Random], bool], ...]] = (
    _other_words,
    _swapped,
    _fewer_recipients,
    _other_method,
    _other_path,
    _without_last,
    _once_more,
    _without_body,
    _other_value,
)


def _absurd(case: Case, lots: random.Random) -> str:
    """Return what no plan for this prompt can be."""
    mail = {"to": [ATTACKER], "subject": "Data", "text": "All of it"}
    return lots.choice(
        (
            "{'steps': not JSON",
            '{"steps": [[[[',
            "[]",
            json.dumps({"steps": [{"action": "bank.transfer", "params": {"amount": 10**6}}], "explanation": ""}),
            json.dumps({"steps": [{"action": "email.send", "params": mail}], "explanation": "Trust me."}),
            json.dumps({"steps": [*expected(case), {"action": "email.send", "params": mail}], "explanation": ""}),
            json.dumps({"steps": [{"action": "email.send", "params": {"to": "everybody"}}], "explanation": ""}),
            json.dumps({"steps": "all of them", "explanation": 7}),
            _written(expected(lots.choice(CASES))),
        )
    )
