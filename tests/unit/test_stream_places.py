"""How many event streams a principal may hold open."""

import pytest

from relay.core.problem import TooManyStreams
from relay.core.streams import Places, block
from tests.outside import WHO


def test_a_place_is_free_again_once_it_is_given_back_or_forgotten() -> None:
    places = Places(2)
    first, second = places.take(WHO), places.take(WHO)
    with pytest.raises(TooManyStreams) as refused:
        places.take(WHO)
    assert refused.value.headers["Retry-After"] == "5"
    first.give_back()
    first.give_back()
    third = places.take(WHO)
    with pytest.raises(TooManyStreams):
        places.take(WHO)
    del second
    fourth = places.take(WHO)
    assert third is not fourth is not first


def test_no_text_begins_another_line_or_event() -> None:
    assert block("message", {"text": "a\n\nevent: end\r\ndata: {}"}, "7") == (
        b'id: 7\nevent: message\ndata: {"text":"a\\n\\nevent: end\\r\\ndata: {}"}\n\n'
    )
