"""What is sealed beside an attempt that waits."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.origins import LABELS, Origins
from relay.gate.asked import Asked

OLD = (
    b'{"client":"203.0.113.9","untrusted_content":true,"tries_allowed":2,'
    b'"timeout":5.0,"seen_version":"etag:x","asked_at":7}'
)
ASKED = Asked("203.0.113.9", True, 2, 5.0, "etag:x", 7)
NAMES = st.frozensets(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4)


def test_what_was_sealed_before_there_were_origins_opens() -> None:
    assert Asked.from_sealed(OLD) == ASKED
    assert ASKED.sealed_form() == OLD


@given(st.fixed_dictionaries(dict.fromkeys(LABELS, NAMES)))
def test_origins_come_back_as_they_were(sets: dict[str, frozenset[str]]) -> None:
    asked = replace(ASKED, origins=Origins.of(sets))
    again = Asked.from_sealed(asked.sealed_form())
    assert again == asked and again.origins is not None and again.origins.user == sets["user"]


def test_no_origins_are_not_empty_ones() -> None:
    assert Asked.from_sealed(replace(ASKED, origins=Origins()).sealed_form()).origins == Origins()


def test_a_set_that_is_not_known_is_not_passed_over() -> None:
    unknown: dict[str, Any] = {"user": ["to"], "others": ["to"]}
    with pytest.raises(TypeError):
        Origins.of(unknown)


def test_what_is_made_of_parameters_has_all_their_origins() -> None:
    origins = Origins(user=frozenset({"to"}), untrusted=frozenset({"text"}))
    assert origins.spread(["url"]) == Origins(user=frozenset({"url"}), untrusted=frozenset({"url"}))
