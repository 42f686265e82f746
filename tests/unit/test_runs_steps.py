"""Steps before they run: order, references backwards only, and stand-ins that fit their place."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from relay.core.problem import Invalid
from relay.core.references import RESULT_OF, find_references
from relay.core.stand_ins import stand_in
from relay.runs.steps import MAX_STEPS, Inputs, RunStep, StepDraft, arrange, pack, plan_digest, steered, unpack


def ref(step: str = "s1", **more: Any) -> dict[str, Any]:
    return {RESULT_OF: step, "pointer": "/x", **more}


def pointers(refusal: pytest.ExceptionInfo[Invalid]) -> list[str]:
    return [error["pointer"] for error in refusal.value.extensions["errors"]]


class TestArrange:
    def test_ids_are_given_by_place_and_references_are_dependencies(self) -> None:
        steps = arrange(
            [
                StepDraft("a.b", {}),
                StepDraft("a.b", {}, id="mine"),
                StepDraft("a.b", {"x": [ref("mine")], "y": ref("s1")}, depends_on=("s1",)),
            ]
        )
        assert [step.id for step in steps] == ["s1", "mine", "s3"]
        assert [step.depends_on for step in steps] == [(), (), ("s1", "mine")]

    @pytest.mark.parametrize(
        ("drafts", "pointer"),
        [
            ([], "/steps"),
            ([StepDraft("a.b", {})] * (MAX_STEPS + 1), "/steps"),
            ([StepDraft("a.b", {}, id="s2"), StepDraft("a.b", {})], "/steps/1/id"),
            ([StepDraft("a.b", {}, id="")], "/steps/0/id"),
            ([StepDraft("a.b", {}, id="a b")], "/steps/0/id"),
            ([StepDraft("a.b", {}, id="s1\n")], "/steps/0/id"),
            ([StepDraft("a.b", {}, depends_on=("s1",))], "/steps/0/depends_on/0"),
            ([StepDraft("a.b", {}, depends_on=("s2",)), StepDraft("a.b", {})], "/steps/0/depends_on/0"),
            ([StepDraft("a.b", {"x": ref("s1")})], "/steps/0/params/x"),
            ([StepDraft("a.b", {}), StepDraft("a.b", {"x": {"y/z": ref("s2")}})], "/steps/1/params/x/y~1z"),
            ([StepDraft("a.b", {"x": {RESULT_OF: "s1", "as": 1}})], "/steps/0/params/x"),
            ([StepDraft("a.b", {"x": 2**53})], "/steps/0/params"),
            ([StepDraft("a.b", {"x": "\ud800"})], "/steps/0/params"),
        ],
    )
    def test_what_is_refused_and_where(self, drafts: list[StepDraft], pointer: str) -> None:
        with pytest.raises(Invalid) as refusal:
            arrange(drafts)
        assert pointers(refusal) == [pointer]

    def test_a_step_survives_being_sealed(self) -> None:
        step = RunStep("s2", "a.b", {"x": ref()}, ("s1",))
        inputs = Inputs("n", (step,), "192.0.2.1")
        assert unpack(pack(inputs)) == inputs


class TestOptions:
    def test_they_are_kept_and_sealed(self) -> None:
        steps = arrange([StepDraft("a.b", {}, timeout_seconds=2.5, retries=3), StepDraft("a.b", {})])
        assert [(step.timeout_seconds, step.retries) for step in steps] == [(2.5, 3), (None, 0)]
        assert unpack(pack(Inputs("nce_1", steps))) == Inputs("nce_1", steps)

    def test_what_was_sealed_and_digested_without_them_is_the_same_as_with_none(self) -> None:
        (step,) = arrange([StepDraft("a.b", {"x": 1})])
        assert (
            pack(Inputs("n", (step,)))
            == b'{"nonce":"n","steps":[{"id":"s1","action":"a.b","params":{"x":1},"depends_on":[]}]}'
        )
        (other,) = arrange([StepDraft("a.b", {"x": 1}, retries=1)])
        assert plan_digest("w", "p", "n", [step]) != plan_digest("w", "p", "n", [other])

    @pytest.mark.parametrize(
        ("options", "pointer"),
        [
            ({"retries": 6}, "/steps/0/retries"),
            ({"retries": -1}, "/steps/0/retries"),
            ({"timeout_seconds": 0.0}, "/steps/0/timeout_seconds"),
            ({"timeout_seconds": -1.0}, "/steps/0/timeout_seconds"),
            ({"timeout_seconds": float("nan")}, "/steps/0/timeout_seconds"),
        ],
    )
    def test_out_of_bounds_is_refused(self, options: dict[str, Any], pointer: str) -> None:
        with pytest.raises(Invalid) as refused:
            arrange([StepDraft("a.b", {}, **options)])
        assert pointers(refused) == [pointer]


class TestDigest:
    STEP = RunStep("s1", "a.b", {"x": 1}, ())

    def test_it_is_sixty_four_hex_digits_and_the_same_for_the_same(self) -> None:
        digest = plan_digest("w", "p", "n", [self.STEP])
        assert len(digest) == 64
        assert digest == plan_digest("w", "p", "n", [RunStep("s1", "a.b", {"x": 1}, ())])

    @pytest.mark.parametrize(
        "other",
        [
            plan_digest("v", "p", "n", [STEP]),
            plan_digest("w", "q", "n", [STEP]),
            plan_digest("w", "p", "m", [STEP]),
            plan_digest("w", "p", "n", [STEP, STEP]),
            plan_digest("w", "p", "n", [RunStep("s2", "a.b", {"x": 1}, ())]),
            plan_digest("w", "p", "n", [RunStep("s1", "a.c", {"x": 1}, ())]),
            plan_digest("w", "p", "n", [RunStep("s1", "a.b", {"x": 2}, ())]),
            plan_digest("w", "p", "n", [RunStep("s1", "a.b", {"x": 1}, ("s0",))]),
        ],
    )
    def test_it_binds_everything(self, other: str) -> None:
        assert other != plan_digest("w", "p", "n", [self.STEP])


class Mail(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: list[str] = Field(min_length=1, max_length=2)
    url: str = "https://example.com/"
    count: int = 1
    ratio: float = Field(default=0.5, gt=0, lt=1)
    data: dict[str, JsonValue] | list[JsonValue] | None = None
    mode: Literal["fast", "slow"] = "fast"

    @field_validator("to")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        if not all("@" in address for address in value):
            raise ValueError("no address")
        return value

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError("no URL")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Mail":
        if self.mode == "slow" and self.count > 100:
            raise ValueError("too slow")
        return self


def filled(params: dict[str, Any], model: type[BaseModel] = Mail) -> dict[str, Any]:
    return stand_in(params, find_references(params), model, "/p")


class TestStandIn:
    @pytest.mark.parametrize(
        "params",
        [
            {"to": [ref()]},
            {"to": ["a@b.example", ref(**{"as": "text"})]},
            {"to": ["a@b.example"], "url": ref(), "count": ref(), "ratio": ref(), "data": ref()},
            {"to": ["a@b.example"], "data": {"deep": [ref(), {"er": ref()}]}},
            {"to": ref(), "data": [ref()]},
        ],
    )
    def test_every_reference_gets_a_value_that_fits(self, params: dict[str, Any]) -> None:
        found = filled(params)
        Mail.model_validate(found)
        assert RESULT_OF not in str(found)
        assert params["to"] is not found["to"]

    def test_what_is_wrong_besides_is_reported_alone(self) -> None:
        with pytest.raises(Invalid) as refusal:
            filled({"to": [ref()], "count": "many", "extra": 1})
        assert sorted(pointers(refusal)) == ["/p/count", "/p/extra"]

    def test_what_is_wrong_as_a_whole_is_reported(self) -> None:
        with pytest.raises(Invalid) as refusal:
            filled({"to": [ref()], "mode": "slow", "count": 101})
        assert pointers(refusal) == ["/p"]

    @pytest.mark.parametrize("params", [{"mode": ref()}, {"number": ref(**{"as": "text"})}])
    def test_a_place_that_no_result_fits_is_refused(self, params: dict[str, Any]) -> None:
        class Narrow(BaseModel):
            mode: Literal["fast", "slow"] = "fast"
            number: dict[str, int] = {}

        with pytest.raises(Invalid) as refusal:
            filled(params, Narrow)
        assert pointers(refusal) == [f"/p/{next(iter(params))}"]


def test_steps_are_steered_from_the_first_reference_to_an_untrusted_result_on() -> None:
    def step(name: str, action: str, of: str | None = None) -> RunStep:
        return RunStep(name, action, {"text": {"$result_of": of}} if of else {}, (of,) if of else ())

    steps = [
        step("s1", "http.request"),
        step("s2", "email.send"),
        step("s3", "relay.echo", "s2"),
        step("s4", "relay.echo", "s1"),
        step("s5", "relay.echo", "s2"),
    ]
    assert steered(steps, {"email.send", "relay.echo"}) == [False, False, False, True, True]
    assert steered(steps, {"relay.echo"}) == [False, False, True, True, True]
