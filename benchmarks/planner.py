"""How good planning is: which actions a model is offered of many, and what the computed confidence is worth."""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.house import open_house
from relay.llm.service import LanguageModels
from relay.planning.llm import ModelPlanner
from relay.planning.local import LocalPlanner
from relay.planning.narrowing import index_of, narrow
from relay.planning.wording import PROPOSE
from relay.store.target import parse_target
from tests.gateway import settings_for
from tests.model_server import call, open_model_server, say
from tests.planner_answers import SHARES, answers, is_right
from tests.planner_catalogue import REQUESTS, SIZE, catalogue, requests
from tests.planner_kit import ACTIONS, PAYER
from tests.unit.planner_prompts import CASES

LIMITS = (5, 10, 20, 40)
BINS = 5
SEED = 20
ROUNDS = 3
RECALL_AIM = 0.92
ERROR_AIM = 0.12


@dataclass(frozen=True)
class Judged:
    """A plan that had steps: how sure the planner was, and whether it was what the prompt asks for."""

    confidence: float
    right: bool


def recall() -> None:
    """Print how often the action that a request means is among those that a model is offered for it."""
    began = time.process_time()
    actions = catalogue()
    index_of(actions)
    built = time.process_time() - began
    asked = requests(actions)
    kinds = {
        "all": asked,
        "in the software's words": [request for request in asked if request.words == "plain"],
        "in other words": [request for request in asked if request.words == "other"],
        "without saying where": [request for request in asked if not request.placed],
    }
    print(f"\nrecall on a generated catalogue of {SIZE} actions, {REQUESTS} requests for one of them each")
    print(f"{'':<28}{'requests':>9}" + "".join(f"{f'recall@{limit}':>11}" for limit in LIMITS))
    found = {}
    for name, some in kinds.items():
        shares = []
        for limit in LIMITS:
            hits = [any(spec.name == one.action for spec in narrow(one.text, actions, limit)) for one in some]
            shares.append(statistics.mean(hits))
            found[name, limit] = shares[-1]
        print(f"{name:<28}{len(some):>9}" + "".join(f"{share:>11.3f}" for share in shares))
    began = time.process_time()
    for request in asked:
        narrow(request.text, actions, 40)
    each = (time.process_time() - began) / len(asked)
    print(f"catalogue and index made in {built:.2f} s, then {each * 1e3:.2f} ms of processor time for a request")
    reached = found["all", 20]
    print(f"{'met   ' if reached >= RECALL_AIM else 'MISSED'}  recall@20 {reached:.3f}  (aim ≥ {RECALL_AIM:g})")


@contextlib.asynccontextmanager
async def _opened(folder: Path, model: Mapping[str, str]) -> AsyncIterator[LanguageModels]:
    settings = settings_for(parse_target(None, folder), folder, **model)
    async with open_house(settings) as house:
        models = LanguageModels(settings, house.database, house.vault, house.metrics)
        await models.start()
        try:
            yield models
        finally:
            await models.stop()


async def by_a_model() -> tuple[list[Judged], int]:
    """Return what the planner says of a model's answers to the table, and how many of its plans had no steps."""
    judged: list[Judged] = []
    none = 0
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder = Path(name)
        async with open_model_server() as server, _opened(folder, server.settings) as models:
            planner = ModelPlanner(models)
            for said in answers(SEED, ROUNDS):
                server.reply(say("", call(PROPOSE, said.arguments)))
                proposal = await planner.propose(said.case.prompt, said.case.context, ACTIONS, PAYER)
                none += not proposal.steps
                if proposal.steps:
                    judged.append(Judged(proposal.confidence, is_right(said.case, proposal)))
    return judged, none


async def by_itself() -> tuple[list[Judged], int]:
    """Return what the local planner says of its own plans for the table, and how many had no steps."""
    planner = LocalPlanner()
    found = [(case, await planner.propose(case.prompt, case.context, ACTIONS)) for case in CASES]
    judged = [Judged(proposal.confidence, is_right(case, proposal)) for case, proposal in found if proposal.steps]
    return judged, len(found) - len(judged)


def error_of(judged: Sequence[Judged]) -> float:
    """Return the expected calibration error: the mean distance of confidence and correctness, over bins by size."""
    return sum(len(some) / len(judged) * abs(_confidence(some) - _correctness(some)) for some in _bins(judged).values())


def _bins(judged: Sequence[Judged]) -> dict[int, list[Judged]]:
    found: dict[int, list[Judged]] = {}
    for one in sorted(judged, key=lambda one: one.confidence):
        found.setdefault(min(int(one.confidence * BINS), BINS - 1), []).append(one)
    return found


def _confidence(some: Sequence[Judged]) -> float:
    return statistics.mean(one.confidence for one in some)


def _correctness(some: Sequence[Judged]) -> float:
    return statistics.mean(one.right for one in some)


def show(judged: Sequence[Judged], none: int) -> float:
    """Print confidence and correctness by bin; return the expected calibration error."""
    print(f"{'confidence':<14}{'plans':>7}{'predicted':>11}{'observed':>10}")
    for number, some in _bins(judged).items():
        name = f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}"
        print(f"{name:<14}{len(some):>7}{_confidence(some):>11.2f}{_correctness(some):>10.2f}")
    error = error_of(judged)
    print(f"{len(judged)} plans with steps, {none} without; expected calibration error {error:.3f}")
    return error


def calibration() -> None:
    """Print what the confidence of both planners is worth on the table of prompts."""
    mix = ", ".join(f"{share:.0%} {kind}" for kind, share in SHARES.items())
    print(f"\ncalibration with a scripted model, {ROUNDS} × {len(CASES)} prompts, answers by lot: {mix}")
    error = show(*asyncio.run(by_a_model()))
    print(f"{'met   ' if error <= ERROR_AIM else 'MISSED'}  calibration error {error:.3f}  (aim ≤ {ERROR_AIM:g})")
    print(f"\ncalibration of the local planner, {len(CASES)} prompts")
    show(*asyncio.run(by_itself()))


def main() -> None:
    """Measure and print."""
    recall()
    calibration()


if __name__ == "__main__":
    main()
