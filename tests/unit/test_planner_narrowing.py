"""Which of many actions are offered to a model: recall on a generated catalogue, and what holds for any."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.llm.messages import Instruction
from relay.planning.llm import ModelPlanner
from relay.planning.narrowing import narrow
from tests.planner_catalogue import SIZE, Request, catalogue, requests
from tests.planner_kit import ACTIONS, PAYER, Told, calls, planned, step

ALL = catalogue()


def recall(found: list[Request], limit: int = 20) -> float:
    """Return the share of requests whose action is among the ``limit`` that are offered for it."""
    hits = [any(spec.name == request.action for spec in narrow(request.text, ALL, limit)) for request in found]
    return sum(hits) / len(hits)


def test_recall_at_20_of_1000() -> None:
    assert len(ALL) == len({spec.name for spec in ALL}) == SIZE
    asked = requests(ALL)
    assert len({request.text for request in asked}) > 700
    assert recall(asked) >= 0.92
    assert recall([request for request in asked if request.words == "plain"]) >= 0.95
    assert recall([request for request in asked if request.words == "other"]) >= 0.87


def test_what_narrows_is_the_text() -> None:
    """Twenty actions by lot hold the right one in two of a hundred requests."""
    lots = random.Random(3)
    asked = requests(ALL)
    swapped = [Request(lots.choice(asked).text, request.action, request.words, request.placed) for request in asked]
    assert recall(swapped) < 0.1


def test_a_request_for_several_things_finds_an_action_for_each() -> None:
    text = (
        "Create an invoice in stripe, then look up the candidate in greenhouse and send the envelope in docusign. "
        "Restart the deployment in kube."
    )
    names = {spec.name for spec in narrow(text, ALL, 5)}
    wanted = {"stripe.create_invoice", "docusign.send_envelope", "kube.restart_deployment"}
    assert wanted & {spec.name for spec in ALL} <= names
    assert any(name.startswith("greenhouse.") and name.endswith("candidate") for name in names)


def test_the_many_words_of_one_part_leave_room_for_the_few_of_another() -> None:
    text = "Create an invoice in stripe, with charge, coupon and subscription as in stripe, then drop the prescription"
    first = {spec.connector for spec in narrow(text.partition(", then")[0], ALL, 6)}
    assert first == {"stripe"}
    assert any(spec.name.endswith("_prescription") for spec in narrow(text, ALL, 6))


@settings(max_examples=60)
@given(st.text(max_size=200), st.integers(1, 60))
def test_any_text_is_offered_as_many_as_fit_and_the_same_each_time(text: str, limit: int) -> None:
    found = narrow(text, ALL, limit)
    names = [spec.name for spec in found]
    assert len(names) == len(set(names)) == limit
    assert names == sorted(names)
    assert names == [spec.name for spec in narrow(text, list(ALL), limit)]


def test_few_actions_are_all_offered() -> None:
    assert narrow("anything", ACTIONS, 40) is ACTIONS
    assert narrow("", ALL, SIZE) is ALL


def test_what_is_named_in_full_is_offered() -> None:
    for spec in random.Random(4).sample(ALL, 50):
        text = f"please create all the things and list every customer with {spec.name} now"
        assert spec in narrow(text, ALL, 5)


def test_an_index_belongs_to_its_actions() -> None:
    """Another principal, who may run less, is offered nothing that it may not run."""
    few = [spec for spec in ALL if spec.connector in ("stripe", "github", "slack")]
    for text in ("create an invoice in stripe", "employee absence in bamboo"):
        assert {spec.name for spec in narrow(text, few, 20)} <= {spec.name for spec in few}
    assert narrow("employee absence in bamboo", ALL, 20) != narrow("employee absence in bamboo", few, 20)


async def test_a_model_is_offered_40_of_1000_and_believed_about_these_alone() -> None:
    told = Told(calls(planned(step("stripe.void_invoice", invoice_id="i1", note="n"), step("slack.pin_message"))))
    proposal = await ModelPlanner(told).propose("void the invoice i1 in stripe, note n", None, ALL, PAYER)
    assert [one.action for one in proposal.steps] == ["stripe.void_invoice"]
    assert "s2 (slack.pin_message) was left out: there is no such action that you may run." in proposal.warnings
    question, _ = told.asked[0]
    (function,) = question.functions
    names = function.parameters["properties"]["steps"]["items"]["properties"]["action"]["enum"]
    assert len(names) == 40 and "stripe.void_invoice" in names and "slack.pin_message" not in names
    rules = question.messages[0]
    assert isinstance(rules, Instruction)
    assert rules.text.count('"action":') == 40
