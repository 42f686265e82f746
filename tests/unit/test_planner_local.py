"""The local planner: what it promises for every prompt, and for actions that it has never heard of."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from relay.catalog import ActionSpec, Connector, Rendering
from relay.connectors import echo, email, http, webhook
from relay.core.hidden import hidden_in
from relay.core.permit import Permit
from relay.core.plan import PlanStep, Proposal
from relay.core.references import find_references
from relay.planning.local import MAX_PROMPT_BYTES, MAX_STEPS, LocalPlanner

ACTIONS: list[ActionSpec] = [spec for part in (email, http, webhook, echo) for spec in part.connector.actions.values()]
HEALTH = "https://example.com/health"
PLANNER = LocalPlanner()


def plan(prompt: str, context: Any = None, actions: Sequence[ActionSpec] = ACTIONS) -> Proposal:
    """Run the planner to its end; it never waits for anything."""
    coroutine = PLANNER.propose(prompt, context, actions)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: Proposal = stop.value
        return answer
    raise AssertionError("the local planner waited")


class Posting(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channel: str
    text: str
    urgent: bool = False
    priority: int = Field(default=3, ge=1, le=5)


class Ticket(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str
    description: str
    kind: Literal["bug", "task"] = "task"
    labels: list[str] = []


class Nothing(BaseModel):
    pass


def connected(name: str, params: type[BaseModel], summary: str) -> ActionSpec:
    connector = Connector(name.partition(".")[0])

    async def run(permit: Permit, params: Any, client: None) -> Nothing:
        return Nothing()

    run.__annotations__["params"] = params
    run.__doc__ = summary
    connector.action(name, effect="write", render=lambda step, client: Rendering("", {}))(run)
    return connector.actions[name]


SLACK = connected("slack.post", Posting, "Post a message to a Slack channel.")
TEAMS = connected("teams.post", Posting, "Post a message to a Teams channel.")
TICKET = connected("tracker.create", Ticket, "Create a ticket in the tracker.")


class TestUnknownConnectors:
    @pytest.mark.parametrize(
        ("prompt", "params"),
        [
            ('post "hi" to slack channel general', {"channel": "general", "text": "hi"}),
            ('post "hi" to #general', {"channel": "#general", "text": "hi"}),
            ('send "hi" to the slack channel "my room"', {"channel": "my room", "text": "hi"}),
            (
                'post to channel general saying "hi", urgent: yes, priority 5',
                {"channel": "general", "text": "hi", "urgent": True, "priority": 5},
            ),
        ],
    )
    def test_parameters_are_filled_by_name_and_type(self, prompt: str, params: dict[str, Any]) -> None:
        proposal = plan(prompt, actions=[*ACTIONS, SLACK])
        assert [(step.action, step.params) for step in proposal.steps] == [("slack.post", params)], proposal.explanation

    @pytest.mark.parametrize(
        ("prompt", "says"),
        [
            ('post "hi" to slack', "channel"),
            ('post "hi" to slack channel general priority high', "no number"),
            ('post "hi" to slack channel general priority 9', "does not accept priority"),
            ('post "hi" to slack channel general urgent maybe2', "no value"),
        ],
    )
    def test_what_does_not_fit_the_schema_is_declined(self, prompt: str, says: str) -> None:
        proposal = plan(prompt, actions=[*ACTIONS, SLACK])
        assert proposal.steps == ()
        assert says in proposal.explanation

    def test_a_title_a_text_an_enumeration_and_a_list(self) -> None:
        proposal = plan(
            'create a ticket titled "Crash" with description "It fell over", kind bug, labels ["x", "y"]',
            actions=[TICKET],
        )
        assert proposal.steps == (), "“ticket” is no word of the action's name or parameters"
        proposal = plan('create in tracker titled "Crash"', actions=[TICKET])
        assert "“in”" in proposal.explanation
        proposal = plan(
            'create titled "Crash" with description "It fell over", kind bug, labels ["x", "y"]', actions=[TICKET]
        )
        assert [step.params for step in proposal.steps] == [
            {"title": "Crash", "description": "It fell over", "kind": "bug", "labels": ["x", "y"]}
        ]

    def test_two_that_fit_equally_well_yield_none_and_both_names(self) -> None:
        proposal = plan('post "hi" to channel general', actions=[SLACK, TEAMS])
        assert proposal.steps == ()
        assert "slack.post" in proposal.explanation and "teams.post" in proposal.explanation

    def test_a_narrow_lead_does_not_decide(self) -> None:
        prompt = 'post the message "hi" to channel general'
        behind = replace(TEAMS, summary="Post to a Teams channel.")
        assert [step.action for step in plan(prompt, actions=[SLACK]).steps] == ["slack.post"]
        assert "fit equally well" in plan(prompt, actions=[SLACK, behind]).explanation

    def test_naming_one_decides(self) -> None:
        proposal = plan('post "hi" to teams channel general', actions=[SLACK, TEAMS])
        assert [step.action for step in proposal.steps] == ["teams.post"]


class TestActionsGiven:
    def test_only_these_are_proposed(self) -> None:
        prompt = 'email a@x.example about "S" saying "T"'
        assert [step.action for step in plan(prompt).steps] == ["email.send"]
        without = [spec for spec in ACTIONS if spec.name != "email.send"]
        proposal = plan(prompt, actions=without)
        assert proposal.steps == ()
        assert "no action that you may run" in proposal.explanation

    def test_none_at_all(self) -> None:
        assert plan(f"call {HEALTH}", actions=[]).steps == ()

    def test_a_changed_specification_is_read_anew(self) -> None:
        first = plan("echo hello", actions=ACTIONS)
        assert len(first.steps) == 1
        other = replace(next(spec for spec in ACTIONS if spec.name == "relay.echo"), params=Posting)
        assert "channel" in plan('echo "hello"', actions=[other]).explanation


class TestProposal:
    def test_says_what_was_understood(self) -> None:
        proposal = plan('email a@x.example, cc b@x.example, bcc c@x.example, about "S" saying "T"')
        sentence = "Send an e-mail to a@x.example, cc b@x.example, bcc c@x.example about “S”"
        assert proposal.steps[0].summary == proposal.intent == sentence
        assert sentence in proposal.explanation
        assert proposal.confidence == 1.0

    def test_many_recipients_are_counted(self) -> None:
        names = ", ".join(f"a{n}@x.example" for n in range(9))
        proposal = plan(f'email {names} about "S" saying "T"')
        assert (
            proposal.steps[0].summary
            == "Send an e-mail to a0@x.example, a1@x.example, a2@x.example and 6 more about “S”"
        )

    def test_requests_are_named_by_method_and_place(self) -> None:
        proposal = plan(f'PUT {{}} to {HEALTH}; save {{}} to {HEALTH}; echo "hi"; POST the result to {HEALTH}')
        assert [step.summary for step in proposal.steps] == [
            f"Send a PUT request to {HEALTH}",
            f"Send a JSON payload to a webhook URL: {HEALTH}",
            "Echo a text back; reaches nothing, useful to try a key: message “hi”",
            f"Send a POST request to {HEALTH} with the result of s3",
        ]
        assert proposal.intent == ", then ".join(step.summary for step in proposal.steps)

    def test_what_was_added_is_warned_of(self) -> None:
        proposal = plan(f"POST {HEALTH} and then email the result to a@x.example")
        assert proposal.warnings == (
            "s1: No body was given; the request carries none.",
            f"s2: No subject was given; it will read “Result of POST {HEALTH}”.",
        )

    def test_confidence_falls_with_a_rival(self) -> None:
        alone = plan('post "hi" to slack channel general', actions=[SLACK]).confidence
        beside = plan('post "hi" to slack channel general', actions=[SLACK, TEAMS]).confidence
        assert 0.6 <= beside < alone == 1.0

    def test_references_are_those_that_runs_resolve(self) -> None:
        proposal = plan(f"call {HEALTH}; echo the status; POST the result of step 1 to {HEALTH}")
        found = [find_references(step.params) for step in proposal.steps]
        assert [[(r.path, r.step_id, r.pointer, r.as_text) for r in references] for references in found] == [
            [],
            [(("message",), "s1", "/status", True)],
            [(("json",), "s1", "", False)],
        ]
        assert [step.depends_on for step in proposal.steps] == [(), ("s1",), ("s1", "s2")]


class TestContacts:
    PROMPT = 'email Bob about "S" saying "T"'

    @pytest.mark.parametrize(
        "context",
        [
            None,
            {},
            {"contacts": None},
            {"contacts": ["Bob", "b@x.example"]},
            {"contacts": {"Bob": ["b@x.example"]}},
            {"contacts": {"Bob": "b@x.example, c@x.example"}},
            {"contacts": {"Bob": "b@x.example\n"}},
            {"contacts": {7: "b@x.example"}},
            {"Bob": "b@x.example"},
            {"recipients": {"Bob": "b@x.example"}},
            {"contacts": {**{f"n{n}": "n@x.example" for n in range(1000)}, "Bob": "b@x.example"}},
        ],
    )
    def test_what_is_no_contact_gives_no_address(self, context: Any) -> None:
        assert plan(self.PROMPT, context).steps == ()

    @pytest.mark.parametrize(
        "name", ["then", "saying", "email", "please", "the", "a message", "cc", "", "subject line", "about S"]
    )
    def test_a_name_cannot_be_a_word_of_the_language(self, name: str) -> None:
        prompts = [
            'please send a message to a@x.example, cc c@x.example, about "S" saying "T"',
            f"call {HEALTH}, then email the result to a@x.example",
            'email a@x.example, subject line "S", text "T"',
        ]
        context = {"contacts": {name: "evil@x.example"}}
        assert [plan(prompt, context) for prompt in prompts] == [plan(prompt) for prompt in prompts]
        assert all(plan(prompt).steps for prompt in prompts)

    def test_a_name_counts_only_where_a_recipient_may_stand(self) -> None:
        context = {"contacts": {"status": "evil@x.example", "Version": "evil@x.example"}}
        prompt = f"call {HEALTH}, then email the status to a@x.example about Version"
        assert plan(prompt, context).steps == plan(prompt).steps != ()

    def test_the_longest_name_wins(self) -> None:
        context = {"contacts": {"Ada": "ada@x.example", "Ada Lovelace": "lovelace@x.example"}}
        assert plan('email Ada Lovelace about "S" saying "T"', context).steps[0].params["to"] == ["lovelace@x.example"]
        assert plan('email Ada about "S" saying "T"', context).steps[0].params["to"] == ["ada@x.example"]


# Properties

OUTSIDE = ["out@outside.example", "two@outside.example", "https://outside.example/a", "https://outside.example/b?c=d"]
INSIDE = [
    "in@inside.example",
    "https://inside.example/x",
    " and then email in@inside.example",
    "; DELETE https://inside.example",
]
WORDS = (
    "email send call fetch POST GET PUT DELETE save echo tell and then , ; . : to cc bcc about saying subject text the "
    "result status response of step 1 with headers query payload json body please thanks Bob 1. 2. - do not if ? \n"
).split(" ")
QUOTES = ['"{}"', "“{}”", "«{}»", "`{}`", "'{}'", "```{}```"]

plain_text = st.text(st.characters(exclude_characters="\"“”„«»`'‘’{}[]"), max_size=12)
inside = st.lists(st.sampled_from([*INSIDE, *WORDS]) | plain_text, max_size=4).map(" ".join)
quoted = st.builds(lambda form, text: form.format(text), st.sampled_from(QUOTES), inside)
json_text = st.sampled_from(['{"to": "in@inside.example"}', '[{"url": "https://inside.example/y"}]', "{}"])
fragments = st.lists(st.sampled_from([*WORDS, *WORDS, *OUTSIDE]) | quoted | json_text | plain_text, max_size=25)
likely = st.lists(
    st.sampled_from(
        [
            'email out@outside.example about "S" saying {q}',
            'send an email, bcc two@outside.example, cc: Bob, subject {q}, saying "T"',
            "POST {q} to https://outside.example/a",
            'POST {{"a": {{"u": "https://inside.example/"}}}} to https://outside.example/b?c=d',
            "call https://outside.example/a",
            "email the result to Bob",
            "echo {q}",
        ]
    ),
    min_size=1,
    max_size=4,
)
prompts = (
    st.text(max_size=200)
    | fragments.map(" ".join)
    | st.tuples(likely, quoted, st.sampled_from(["; ", " and then ", "\n", ". ", ", "])).map(
        lambda given: given[2].join(given[0]).format(q=given[1])
    )
)
CONTACTS = {"Bob": "bob@contacts.example"}


def recipients_and_urls(step: PlanStep) -> Iterator[str]:
    for name in ("to", "cc", "bcc"):
        yield from step.params.get(name, [])
    if "url" in step.params:
        yield step.params["url"]


def with_results(params: dict[str, Any]) -> dict[str, Any]:
    return {
        name: ("x" if "as" in value else {}) if isinstance(value, dict) and "$result_of" in value else value
        for name, value in params.items()
    }


@settings(max_examples=400, deadline=None)
@given(prompts)
def test_every_prompt_has_a_sound_answer(prompt: str) -> None:
    proposal = plan(prompt, {"contacts": CONTACTS})
    assert proposal == plan(prompt, {"contacts": CONTACTS}, ACTIONS[::-1])
    assert proposal.explanation and 0 <= proposal.confidence <= 1
    assert bool(proposal.steps) == (proposal.confidence > 0)
    by_name = {spec.name: spec for spec in ACTIONS}
    earlier: list[str] = []
    for number, step in enumerate(proposal.steps, 1):
        assert step.id == f"s{number}"
        assert set(step.depends_on) <= set(earlier)
        assert {reference.step_id for reference in find_references(step.params)} <= set(step.depends_on)
        by_name[step.action].params.model_validate(with_results(step.params))
        for value in recipients_and_urls(step):
            assert value in prompt or value in CONTACTS.values()
            assert "inside.example" not in value
        earlier.append(step.id)


@settings(max_examples=200, deadline=None)
@given(inside)
def test_quoted_text_arrives_as_it_is_and_changes_nothing_else(text: str) -> None:
    proposal = plan(f"email out@outside.example about “S” saying “{text}”")
    if any(mark in text for mark in "“”"):
        return
    assert [(step.action, step.params) for step in proposal.steps] == [
        ("email.send", {"to": ["out@outside.example"], "subject": "S", "text": text})
    ] or (hidden_in(text) and "The prompt contains" in proposal.explanation)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.text(max_size=8),
        lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some, max_size=3),
    )
)
def test_no_context_raises_or_adds_a_step(context: Any) -> None:
    for given_context in (context, {"contacts": context}):
        assert plan(f"call {HEALTH}", given_context).steps == plan(f"call {HEALTH}").steps


# Bounds

REPEATED = [
    *("email ", "and ", ", ", "please ", "saying , ", "about x, ", "the result ", "'a ", "“", "{", "[", "a@", "a@b.c "),
    *(
        "a@=",
        "https://x/)",
        ")",
        ".",
        ". ",
        "; ",
        "1. ",
        "\n",
        "\n- ",
        "<a@b.example> ",
        "Bob ",
        "cc ",
        "cc a@b.example ",
    ),
    *("text: ", "!?", "with and the ", '"a" ', "POST ", "thanks ", "``` "),
]


def lines_run(prompt: str) -> int:
    """Count the lines of Python that planning ``prompt`` takes: a measure of work that no busy machine disturbs."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        plan(prompt, {"contacts": CONTACTS})
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("piece", REPEATED)
@pytest.mark.parametrize("start", ["", 'email a@x.example about "S" ', "email a@x.example about S saying T "])
def test_work_grows_no_faster_than_the_prompt(piece: str, start: str) -> None:
    plan(start)  # profiles are made once
    # An even number of pieces, so that quotation marks close in both.
    short, long = (lines_run(start + piece * (size // len(piece) // 2 * 2)) for size in (1000, 4000))
    assert long <= 5 * short + 5_000


@pytest.mark.parametrize("piece", REPEATED)
def test_a_prompt_at_the_limit_is_answered(piece: str) -> None:
    prompt = (piece * MAX_PROMPT_BYTES)[:MAX_PROMPT_BYTES].encode()[:MAX_PROMPT_BYTES].decode(errors="ignore")
    proposal = plan(prompt)
    assert proposal.explanation and len(proposal.explanation) < 1000
    assert len(proposal.steps) <= MAX_STEPS


def test_a_long_quoted_text_passes_and_one_byte_more_than_the_limit_does_not() -> None:
    start, end = 'email a@x.example about "S" saying "', '"'
    text = "x" * (MAX_PROMPT_BYTES - len(start) - len(end))
    assert plan(start + text + end).steps[0].params["text"] == text
    assert "16 KiB" in plan(start + text + "x" + end).explanation


def test_as_many_steps_as_are_allowed() -> None:
    steps = [f"echo “{n}”" for n in range(MAX_STEPS)]
    proposal = plan("; ".join(steps))
    assert [step.id for step in proposal.steps] == [f"s{n}" for n in range(1, MAX_STEPS + 1)]
    assert all(step.depends_on == (before.id,) for before, step in itertools.pairwise(proposal.steps))
