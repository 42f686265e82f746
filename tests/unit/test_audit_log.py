import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.audit.log import Filters, make_cursor, parse_cursor


@given(st.integers(0, 10**18 - 1))
def test_a_cursor_comes_back(seq: int) -> None:
    assert parse_cursor(make_cursor(seq)) == seq


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[A-Za-z0-9_\-=]{0,40}", fullmatch=True)))
def test_any_other_text_is_refused_as_a_cursor(text: str) -> None:
    try:
        seq = parse_cursor(text)
    except ValueError:
        return
    assert make_cursor(seq) == text


@pytest.mark.parametrize("text", ["", "YmVmb3JlOg", "YmVmb3JlOi0x", make_cursor(5) + "=", make_cursor(5) + "\n", "é"])
def test_near_cursors_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_cursor(text)


@pytest.mark.parametrize("text", ["", "a\nb", "\0", "x" * 201, "\ud800", "\x1b[2J"])
@pytest.mark.parametrize("name", ["tag", "principal", "action", "outcome", "q"])
def test_a_filter_is_one_printable_line(name: str, text: str) -> None:
    with pytest.raises(ValueError):
        Filters(**{name: text})
