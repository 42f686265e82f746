"""Which planner an installation has, and what its plans say about that."""

from pathlib import Path

import pytest

from relay.core.problem import ModelUnavailable, SpendingExhausted
from relay.planning.choose import NO_ANSWER, NO_MODEL, choose_planner
from relay.settings import Settings, load_settings
from tests.planner_kit import ACTIONS, PAYER, Told, calls, planned, step

GOOD = calls(planned(step("relay.echo", message="hello")))
DOWN = ModelUnavailable("down")


def load(**values: str) -> Settings:
    return load_settings(values, Path("/nowhere"))


async def test_without_a_model_the_local_planner_plans_and_says_so() -> None:
    told = Told(GOOD, name=None)
    proposal = await choose_planner(load(), told).propose("echo hello", None, ACTIONS, PAYER)
    assert (proposal.planner, proposal.warnings, len(proposal.steps)) == ("local", (NO_MODEL,), 1)
    assert told.asked == []


async def test_with_a_model_it_is_asked_and_the_payer_pays() -> None:
    told = Told(GOOD)
    proposal = await choose_planner(load(), told).propose("echo hello", None, ACTIONS, PAYER)
    assert (proposal.planner, proposal.warnings, len(proposal.steps)) == ("model", (), 1)
    assert [payer for _, payer in told.asked] == [PAYER]


async def test_a_model_that_is_down_is_a_refusal_unless_a_setting_allows_the_local_planner() -> None:
    with pytest.raises(ModelUnavailable):
        await choose_planner(load(), Told(DOWN)).propose("echo hello", None, ACTIONS, PAYER)
    allowed = choose_planner(load(AI_FALLBACK_LOCAL="true"), Told(DOWN))
    proposal = await allowed.propose("echo hello", None, ACTIONS, PAYER)
    assert (proposal.planner, proposal.warnings, len(proposal.steps)) == ("local", (NO_ANSWER,), 1)


@pytest.mark.parametrize("fallback", ["true", "false"])
async def test_a_budget_that_is_used_up_is_no_outage(fallback: str) -> None:
    told = Told(SpendingExhausted("used up", budget="day"))
    planner = choose_planner(load(AI_FALLBACK_LOCAL=fallback), told)
    with pytest.raises(SpendingExhausted):
        await planner.propose("echo hello", None, ACTIONS, PAYER)
