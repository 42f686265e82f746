"""References: what they are replaced by, what is refused, and that results never become references."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.pointer import pointer_of
from relay.core.references import (
    MAX_DEPTH,
    MAX_INSERTED,
    MAX_REFERENCES,
    RESULT_OF,
    BadReference,
    find_references,
    resolve,
)

RESULT = {"status": 200, "body": {"items": ["a", {"b/c": None}], "~": 1.5}, "text": "plain"}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def refer(pointer: str = "", **more: Any) -> dict[str, Any]:
    return {RESULT_OF: "s1", "pointer": pointer, **more}


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        (refer("/status"), 200),
        (refer("/body/items/1/b~1c"), None),
        (refer("/body/~0"), 1.5),
        (refer("/text", **{"as": "text"}), "plain"),
        (refer("/status", **{"as": "text"}), "200"),
        (refer("/body/items", **{"as": "text"}), '["a",{"b/c":null}]'),
        (refer("/body/items", **{"as": "value"}), ["a", {"b/c": None}]),
        ({RESULT_OF: "s1"}, RESULT),
    ],
)
def test_a_reference_becomes_what_it_names(reference: dict[str, Any], value: Any) -> None:
    assert resolve({"a": [{"b": reference}], "c": "$result_of"}, {"s1": RESULT}) == {
        "a": [{"b": value}],
        "c": "$result_of",
    }


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({RESULT_OF: "s1"}, ""),
        ({"a": {RESULT_OF: "s1", "extra": 1}}, "/a"),
        ({"a": {RESULT_OF: 1}}, "/a"),
        ({"a": {RESULT_OF: ""}}, "/a"),
        ({"a": {RESULT_OF: {RESULT_OF: "s1"}}}, "/a"),
        ({"a": [refer("status")]}, "/a/0"),
        ({"a": {RESULT_OF: "s1", "pointer": None}}, "/a"),
        ({"a": refer("/" + "x" * 1024)}, "/a"),
        ({"b/c": refer("", **{"as": "html"})}, "/b~1c"),
        ({"a": [refer()] * (MAX_REFERENCES + 1)}, f"/a/{MAX_REFERENCES}"),
    ],
)
def test_what_looks_like_a_reference_but_is_none_is_refused(params: dict[str, Any], place: str) -> None:
    with pytest.raises(BadReference) as refusal:
        find_references(params)
    assert refusal.value.place == place


@pytest.mark.parametrize("pointer", ["/nothing", "/body/items/2", "/body/items/01", "/body/items/-", "/text/0", "/~2"])
def test_a_pointer_that_leads_nowhere_is_refused(pointer: str) -> None:
    with pytest.raises(BadReference) as refusal:
        resolve({"a": {"b": refer(pointer)}}, {"s1": RESULT})
    assert refusal.value.place == "/a/b"


def test_a_step_without_result_is_refused() -> None:
    with pytest.raises(BadReference, match="s1 has no result"):
        resolve({"a": refer()}, {"s2": RESULT})


def test_depth_is_bounded() -> None:
    deepest: Any = refer()
    for _ in range(MAX_DEPTH - 1):
        deepest = [deepest]
    assert len(find_references({"a": deepest})) == 1
    with pytest.raises(BadReference):
        find_references({"a": [deepest]})


def test_what_is_inserted_is_bounded_in_all() -> None:
    half = {"s1": {"x": "y" * (MAX_INSERTED // 2 - 2)}}
    assert len(resolve({"a": refer("/x"), "b": refer("/x")}, half)) == 2
    with pytest.raises(BadReference, match="exceed"):
        resolve({"a": refer("/x"), "b": refer("/x"), "c": refer("/x")}, half)


def test_a_result_that_looks_like_a_reference_stays_data() -> None:
    trap = {"x": {RESULT_OF: "s2", "pointer": ""}}
    assert resolve({"a": refer("/x")}, {"s1": trap, "s2": "secret"}) == {"a": trap["x"]}


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@given(values, st.lists(names | st.integers(0, 3), min_size=1, max_size=5))
def test_whatever_is_at_the_pointer_arrives_where_the_reference_stood(value: Any, path: list[str | int]) -> None:
    result = value
    for part in reversed(path):
        result = [0] * part + [result] if isinstance(part, int) else {part: result}
    params: dict[str, Any] = {"a": [1, {"b": refer(pointer_of(path))}], "c": refer(pointer_of(path), **{"as": "text"})}
    resolved = resolve(params, {"s1": result})
    assert resolved["a"] == [1, {"b": value}]
    assert resolved["c"] == value if isinstance(value, str) else json.loads(resolved["c"]) == value
    assert params["a"][1]["b"][RESULT_OF] == "s1"


@given(st.dictionaries(st.text().filter(lambda name: name != RESULT_OF), values, max_size=5))
def test_parameters_without_references_are_left_alone(params: dict[str, Any]) -> None:
    try:
        found = find_references(params)
    except BadReference:
        return
    if not found:
        assert resolve(params, {}) == params


@given(values, values)
def test_nothing_but_a_bad_reference_is_ever_raised(params: Any, result: Any) -> None:
    shaped = {"a": params, "b": {RESULT_OF: "s1", "pointer": params}}
    try:
        resolve(shaped, {"s1": result})
    except BadReference as error:
        assert error.place.startswith(("/a", "/b"))


@pytest.mark.parametrize("bad", ["\0", "\x1f", "\x9f", "\ud800"])
def test_what_no_database_stores_is_in_no_reference(bad: str) -> None:
    for reference in ({RESULT_OF: "s1", "pointer": "/" + bad}, {RESULT_OF: "s1" + bad}):
        with pytest.raises(BadReference, match="no control character"):
            find_references({"a": reference})
