"""Actions as functions: names that lead back, and arguments that are any text whatever."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.catalog import Catalog
from relay.chat.functions import MAX_ARGUMENT_BYTES, BadArguments, arguments_of, function_name, offer
from relay.chat.identity import hash_of, new_session_id
from tests.chat_world import World, connector

parts = st.from_regex(r"[a-z][a-z0-9]{0,30}(\.[a-z][a-z0-9_]{0,40}){1,3}", fullmatch=True)


@given(st.lists(parts, unique=True, max_size=20))
def test_names_of_functions_are_what_models_take_and_tell_actions_apart(actions: list[str]) -> None:
    names = [function_name(action) for action in actions]
    assert len(set(names)) == len(actions)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)


def test_only_what_was_offered_is_an_action() -> None:
    catalog = Catalog()
    catalog.register(connector(), World())
    found = offer(list(catalog)[:2])
    assert [function.name for function in found.functions] == ["thing-post", "thing-put"]
    assert found.functions[0].parameters["additionalProperties"] is False
    spec = found.spec("thing-put")
    assert spec is not None
    assert spec.name == "thing.put"
    assert found.spec("thing-wipe") is None
    assert found.spec("thing.put") is None


@given(st.one_of(st.text(), st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))))
def test_any_text_is_an_object_or_refused(text: str) -> None:
    try:
        found = arguments_of(text)
    except BadArguments:
        return
    assert isinstance(found, dict)
    assert not text.strip() or json.loads(text) == found


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-(2**53) + 1, 2**53 - 1), st.text(), st.booleans())))
def test_good_arguments_are_read(value: dict[str, Any]) -> None:
    assert arguments_of(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": 1e400}',
        '{"a": -Infinity}',
        '{"a": 9007199254740992}',
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        "[" * 100_000,
        '{"a":' * 200 + "1" + "}" * 200,
        '"a"',
        "null",
        "{} {}",
        "x" * (MAX_ARGUMENT_BYTES + 1),
    ],
)
def test_arguments_that_are_refused(text: str) -> None:
    with pytest.raises(BadArguments):
        arguments_of(text)


def test_session_ids_are_long_random_and_known_by_their_hash_alone() -> None:
    made = {new_session_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(found) == 43 and hash_of(found) is not None for found in made)
    for text in ("", "short", "A" * 44, "A" * 42 + "!", "é" * 43, "A" * 42 + "\n"):
        assert hash_of(text) is None
