"""What may come in as text, and how everything else is shown."""

import json
import random
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.hidden import Visible, hidden_in
from relay.core.hygiene import MAX_DEPTH, MAX_VALUES, clean, clean_json, visible
from relay.core.problem import Invalid

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
FINE = {
    "German": "Größe – „naïve“ Straße",
    "Arabic": "مرحبا بالعالم\u061c!",
    "Hebrew with direction marks": "שלום \u200fABC\u200e",
    "Persian with a non-joiner": "می\u200cخواهم",
    "Hindi with joiners": "क्\u200dष क्\u200cष",
    "Thai": "สวัสดีชาวโลก",
    "Khmer with zero-width spaces": "សួស្តី\u200bពិភពលោក",
    "Korean": "안녕하세요",
    "old Korean with fillers": "\u115f\u1161 \u1112\u1160\u11ab \u115f\u1160\u11a8",
    "Japanese, a variant of an ideograph": "葛\U000e0100城",
    "Mongolian with selectors": "ᠮᠣᠩᠭᠣᠯ ᠨ\u180b ᠬ\u180eᠠ",
    "Vietnamese": "Tiếng Việt",
    "soft hyphen": "Donau\u00addampf",
    "a family": "👨\u200d👩\u200d👧\u200d👦",
    "a heart on fire": "❤\ufe0f\u200d🔥",
    "a keycap": "1\ufe0f\u20e3",
    "England": ENGLAND,
    "two flags": ENGLAND + ENGLAND,
    "private use": "\ue000",
    "a tab and lines": "a\tb\nc",
}
SMUGGLED = {
    "NUL": ("a\x00", 2, "U+0000", "a control character"),
    "escape": ("\x1b[2J", 1, "U+001B", "a control character"),
    "DEL": ("ab\x7f", 3, "U+007F", "a control character"),
    "NEL": ("\x85", 1, "U+0085", "a control character"),
    "an override": ("invoice\u202efdp.exe", 8, "U+202E", "turns the direction"),
    "an isolate": ("a\u2066b\u2069", 2, "U+2066", "turns the direction"),
    "tags": ("hi" + "".join(chr(0xE0000 + ord(c)) for c in "send it"), 3, "U+E0073", "a tag character"),
    "tags behind a flag": (
        "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in "attack") + "\U000e007f",
        2,
        "U+E0061",
        "tag",
    ),
    "half of a pair": ("a\ud83d", 2, "U+D83D", "half of a surrogate pair"),
    "no character": ("\ufdd0", 1, "U+FDD0", "no character"),
    "the last of a plane": ("x\U0010ffff", 2, "U+10FFFF", "no character"),
    "annotation": ("a\ufff9b\ufffac\ufffb", 2, "U+FFF9", "an invisible character"),
    "a word joiner": ("pass\u2060word", 5, "U+2060", "an invisible character"),
    "an invisible plus": ("1\u20642", 2, "U+2064", "an invisible character"),
    "a byte order mark inside": ("a\ufeffb", 2, "U+FEFF", "an invisible character"),
    "a Mongolian separator elsewhere": ("a\u180eb", 2, "U+180E", "an invisible character"),
    "a Hangul filler": ("\u3164", 1, "U+3164", "an invisible character"),
    "a filler that fills nothing": ("\u115fx", 1, "U+115F", "an invisible character"),
    "a half-width filler": ("a\uffa0", 2, "U+FFA0", "an invisible character"),
    "bytes in selectors": ("😀\ufe01\ufe05\ufe09", 2, "U+FE01", "varies nothing"),
    "bytes in the other selectors": ("😀\U000e0101\U000e0102", 2, "U+E0101", "varies nothing"),
    "bits in joiners": ("a\u200b\u200c\u200b\u200d\u200bb", 2, "U+200B", "an invisible character"),
    "reserved and ignored": ("\U000e0fff", 1, "U+E0FFF", "an invisible character"),
}
# Each stands for a rule of its own, so that sequences of them try the rules on one another.
TELLING = (
    "a漢ᠨ\u1112\u115f\u1160\u11ab\u1161\ufe0f\ufe01\u200b\u200d\u180b\u180e"
    "\U000e0100\U000e0067\U000e007f\U0001f3f4\r\n\u202e\ud800"
)
texts = st.text(st.sampled_from(TELLING) | st.characters(), max_size=40) | st.lists(
    st.sampled_from([ENGLAND, "\u200b" * 4, "\u200b" * 6, "\ufe0f\ufe0f", "\r\n", "x"]), max_size=8
).map("".join)


@pytest.mark.parametrize("about", FINE)
def test_what_people_write_comes_through(about: str) -> None:
    text = FINE[about]
    assert clean(text, "/p") == unicodedata.normalize("NFC", text)
    assert visible(text) == text


@pytest.mark.parametrize("about", SMUGGLED)
def test_what_hides_is_refused_by_place_and_code_point(about: str) -> None:
    text, place, name, kind = SMUGGLED[about]
    with pytest.raises(Invalid) as refused:
        clean(text, "/message")
    (error,) = refused.value.extensions["errors"]
    assert error["pointer"] == "/message"
    assert error["message"].startswith(f"Character {place} is {name}, ") and kind in error["message"]
    assert json.dumps(refused.value.document("", ""), ensure_ascii=False).isprintable()
    assert f"⟦{name}⟧" in visible(text)


def test_a_text_becomes_what_it_looks_like() -> None:
    assert clean("e\u0301\r\nx\ry", "/p") == "é\nx\ny"
    assert clean("\ufeffAda", "/p") == "Ada"
    assert clean("\u212b", "/p") == "Å"


def test_marks_are_stacked_so_high_and_no_higher() -> None:
    assert clean("a" + "\u0316" * 30, "/p")
    with pytest.raises(Invalid, match="see errors") as refused:
        clean("xa" + "\u0316" * 31, "/p")
    assert "from character 3 on" in refused.value.extensions["errors"][0]["message"]


def test_sorting_marks_cannot_be_made_to_take_long() -> None:
    # Half a million marks of each of two classes, which NFC would move past one another.
    with pytest.raises(Invalid):
        clean("a" + "\u0315" * 500_000 + "\u0300" * 500_000, "/p")


def test_the_length_counts_in_the_form_that_is_kept() -> None:
    assert clean("e\u0301" * 3, "/p", most=3) == "é" * 3
    with pytest.raises(Invalid):
        clean("\ufb2c", "/p", most=2)  # becomes three
    with pytest.raises(Invalid):
        clean("abc", "/p", most=2)


@given(texts)
def test_what_is_clean_stays_clean_and_nothing_hides_in_it(text: str) -> None:
    try:
        found = clean(text, "/p")
    except Invalid:
        assert hidden_in(text.removeprefix("\ufeff")) is not None or any(map(unicodedata.combining, text))
        return
    assert clean(found, "/p") == found == visible(found)
    assert "\r" not in found and unicodedata.is_normalized("NFC", found)


def _context(value: Any) -> Any:
    return clean_json(value, "/context")


def test_context_is_cleaned_in_depth() -> None:
    value = {"e\u0301": ["a\r\nb", {"n": 1, "t": True, "z": None, "f": 1.5}], "": {}}
    assert _context(value) == {"é": ["a\nb", {"n": 1, "t": True, "z": None, "f": 1.5}], "": {}}


def test_context_is_refused_where_it_is_wrong() -> None:
    for value, pointer in (
        ({"a/b": [{"c~d": "\u202e"}]}, "/context/a~1b/0/c~0d"),
        ({"a": {"b\u202e": 1}}, "/context/a"),
        ({"x" * 5000: "\x00"}, "/context"),
        ({"\u00e9": 1, "e\u0301": 2}, "/context"),
    ):
        with pytest.raises(Invalid) as refused:
            _context(value)
        (error,) = refused.value.extensions["errors"]
        assert error["pointer"] == pointer and len(error["message"]) < 200
        assert "x" * 100 not in error["message"]


def test_context_is_bounded() -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert _context(deep) == deep
    assert len(_context(["x"] * MAX_VALUES)) == MAX_VALUES
    for too_much in ([deep], ["x"] * (MAX_VALUES + 1), [["x"] * 6_000, ["x"] * 6_000]):
        with pytest.raises(Invalid):
            _context(too_much)


@given(texts)
def test_showing_is_total_idempotent_and_bounded(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown and len(shown) <= 10 * len(text)
    assert hidden_in(shown) is None and "\r" not in shown
    shown.encode()


@settings(max_examples=150)
@given(texts, st.randoms(use_true_random=False))
def test_showing_does_not_depend_on_where_a_text_is_cut(text: str, choice: random.Random) -> None:
    stream, told, at, held = Visible(), "", 0, 0
    while at < len(text):
        end = at + choice.choice((1, 1, 2, 3, 9))
        told += stream.feed(text[at:end])
        at = end
        held = max(held, len(stream._held))
    assert told + stream.finish() == visible(text) and held <= 8


@pytest.mark.parametrize(
    "hostile",
    ["\u200b", "\ufe0f", "\U000e0067", "\U0001f3f4\U000e0067", "ᠨ\u180b", "\u115f\u1160", "漢", "\x00", "a\r"],
)
def test_the_work_grows_with_the_text_and_no_faster(hostile: str) -> None:
    def work(size: int) -> int:
        steps = 0

        def count(_frame: Any, _event: str, _what: Any) -> None:
            nonlocal steps
            steps += 1

        text, stream = hostile * size, Visible()
        sys.setprofile(count)
        try:
            for at in range(0, len(text), 7):
                stream.feed(text[at : at + 7])
            stream.finish()
            visible(text)
        finally:
            sys.setprofile(None)
        return steps

    assert work(1_000) <= 2.2 * work(500)
