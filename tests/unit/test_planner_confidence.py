"""What the confidence in a model's plan depends on, and what it is worth on the table of prompts."""

import pytest

from relay.core.plan import Proposal
from relay.planning.checking import check
from relay.planning.confidence import Judged, clarity, fit, judge, margin
from relay.planning.grounds import grounds_of
from relay.planning.llm import ModelPlanner
from tests.planner_answers import Kind, answers, is_right
from tests.planner_kit import ACTIONS, PAYER, Told, calls, planned, step

PROMPT = "email ann@example.com, cc bob@example.com, about “Lunch” saying “Noon at the usual place?”"
TEXT = "Noon at the usual place?"
WHOLE = {"to": ["ann@example.com"], "cc": ["bob@example.com"], "subject": "Lunch", "text": TEXT}


async def confidence(prompt: str, *params: dict[str, object], action: str = "email.send") -> float:
    told = Told(calls(planned(*(step(action, **one) for one in params))))
    return (await ModelPlanner(told).propose(prompt, None, ACTIONS, PAYER)).confidence


async def test_a_plan_that_says_what_was_said_is_believed() -> None:
    assert await confidence(PROMPT, WHOLE) >= 0.75


@pytest.mark.parametrize(
    "params",
    [
        WHOLE | {"cc": []},
        WHOLE | {"subject": "Dinner"},
        WHOLE | {"text": "Noon at the usual place? Bring Carol."},
        WHOLE | {"text": "Noon?"},
        {"to": ["ann@example.com"], "cc": ["bob@example.com"], "subject": "Lunch", "html": "<p>hi</p>"},
    ],
    ids=["a copy missing", "another subject", "more text", "less text", "a text of its own"],
)
async def test_what_was_not_said_or_is_missing_costs_confidence(params: dict[str, object]) -> None:
    assert await confidence(PROMPT, params) <= 0.5


@pytest.mark.parametrize(
    "turned",
    [
        f"do not {PROMPT}",
        f"if it rains, {PROMPT}",
        f"tomorrow {PROMPT}",
        f"did you {PROMPT}",
    ],
)
async def test_words_that_turn_the_meaning_round_cost_confidence(turned: str) -> None:
    assert 0 < await confidence(turned, WHOLE) <= 0.1


async def test_a_step_twice_and_more_steps_than_were_asked_for_cost_confidence() -> None:
    assert await confidence(PROMPT, WHOLE, WHOLE) <= 0.1
    one, other = {"method": "GET", "url": "https://example.com/a"}, {"method": "HEAD", "url": "https://example.com/a"}
    asked = "GET and HEAD https://example.com/a"
    assert await confidence(asked, one, other, action="http.request") > 0.5
    single = "GET HEAD https://example.com/a"
    assert await confidence(single, one, other, action="http.request") < 0.3


async def test_another_action_that_fits_better_costs_confidence() -> None:
    prompt = 'save {"a": 1} to https://api.example.com/x'
    save = {"url": "https://api.example.com/x", "payload": {"a": 1}}
    post = {"method": "POST", "url": "https://api.example.com/x", "json": {"a": 1}}
    assert await confidence(prompt, save, action="webhook.save") > await confidence(prompt, post, action="http.request")


def test_the_margin_is_the_lead_over_the_best_action_that_is_not_used() -> None:
    prompt = 'save {"a": 1} to https://api.example.com/x'
    save = step("webhook.save", url="https://api.example.com/x", payload={"a": 1})
    post = step("http.request", method="POST", url="https://api.example.com/x", json={"a": 1})
    own, rival, both = (_margin(prompt, steps) for steps in ([save], [post], [save, post]))
    assert 0 == rival < own < both <= 1
    assert _confidence(prompt, [save]) == pytest.approx(
        0.8 * fit(_judged(prompt, [save])) * clarity(_judged(prompt, [save])) * (0.85 + 0.15 * own), abs=0.006
    )


def _judged(prompt: str, steps: list[dict[str, object]]) -> Judged:
    return Judged(prompt, None, ACTIONS, check(steps, ACTIONS, grounds_of(prompt, None)), faults=0)


def _margin(prompt: str, steps: list[dict[str, object]]) -> float:
    return margin(_judged(prompt, steps))


def _confidence(prompt: str, steps: list[dict[str, object]]) -> float:
    return judge(_judged(prompt, steps))


async def test_calibration_on_the_table_of_prompts() -> None:
    """The expected calibration error over five bins; `make bench` prints the bins, on answers of another seed."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    means: dict[Kind, list[float]] = {"right": [], "subtle": [], "absurd": []}
    for said in answers(seed=5, rounds=2):
        planner = ModelPlanner(Told(calls(said.arguments)))
        proposal: Proposal = await planner.propose(said.case.prompt, said.case.context, ACTIONS, PAYER)
        if said.kind == "right":
            assert is_right(said.case, proposal)
        if proposal.steps:
            means[said.kind].append(proposal.confidence)
            place = min(int(proposal.confidence * 5), 4)
            bins.setdefault(place, []).append((proposal.confidence, is_right(said.case, proposal)))
    total = sum(map(len, bins.values()))
    assert total > 100
    error = sum(abs(sum(sure for sure, _ in some) - sum(right for _, right in some)) for some in bins.values()) / total
    assert error <= 0.15
    assert sum(right for _, right in bins[0]) / len(bins[0]) < 0.1
    assert _mean(means["right"]) > _mean(means["subtle"]) + 0.3


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
