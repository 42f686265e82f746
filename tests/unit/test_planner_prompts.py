"""The local planner against the table of prompts and the examples of its documentation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.core.plan import Proposal
from relay.planning.local import LocalPlanner
from relay.planning.protocol import Planner
from tests.planner_kit import ACTIONS, PAYER
from tests.unit.planner_prompts import CASES, NONE, Case

PLANNER: Planner = LocalPlanner()
PAGE = Path(__file__).parents[2] / "docs" / "planning.md"


async def propose(prompt: str, context: dict[str, Any] | None = None) -> Proposal:
    return await PLANNER.propose(prompt, context, ACTIONS, PAYER)


def plain(proposal: Proposal) -> list[dict[str, Any]]:
    return [
        {"id": step.id, "action": step.action, "params": step.params, "depends_on": list(step.depends_on)}
        for step in proposal.steps
    ]


def expected(case: Case) -> list[dict[str, Any]]:
    return [
        {"id": f"s{number}", "action": step.action, "params": step.params, "depends_on": list(step.after)}
        for number, step in enumerate(case.steps, 1)
    ]


def test_the_table_is_large_and_a_third_of_it_yields_nothing() -> None:
    assert len({(case.prompt, str(case.context)) for case in CASES}) == len(CASES) >= 60
    assert len(NONE) * 3 >= len(CASES)
    assert not any(case.steps for case in NONE)


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.prompt[:40]!a}" for n, case in enumerate(CASES)])
async def test_prompt(case: Case) -> None:
    proposal = await propose(case.prompt, case.context)
    assert plain(proposal) == expected(case), proposal.explanation
    assert case.says in proposal.explanation
    assert proposal.planner == "local"
    assert proposal.explanation
    assert len(proposal.explanation) < 4000
    assert (proposal.confidence > 0) == bool(case.steps)


def examples() -> list[tuple[str, Any, list[dict[str, Any]]]]:
    blocks = re.findall(r"^```(prompt|context|steps)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found: list[tuple[str, Any, list[dict[str, Any]]]] = []
    prompt, context = "", None
    for kind, text in blocks:
        if kind == "prompt":
            prompt, context = text.rstrip("\n"), None
        elif kind == "context":
            context = json.loads(text)
        else:
            found.append((prompt, context, json.loads(text)))
    return found


def test_the_page_has_examples_of_both_kinds() -> None:
    assert len(examples()) >= 6
    assert {bool(steps) for _, _, steps in examples()} == {True, False}


@pytest.mark.parametrize(("prompt", "context", "steps"), examples())
async def test_example_of_the_page(prompt: str, context: Any, steps: list[dict[str, Any]]) -> None:
    assert plain(await propose(prompt, context)) == steps
