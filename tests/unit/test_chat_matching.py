"""Whether a text stands in another: strictly, to believe it, and generously, to suspect it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.chat.matching import Believed, Effort, Suspected, case_matters, is_short, skeleton, written

PLENTY = 10**9


def believed(value: str, *texts: str) -> bool:
    source = Believed()
    for text in texts:
        source.add(text)
    return bool(source.found(value, 1, Effort(PLENTY)))


def suspected(value: str, *texts: str) -> bool:
    source = Suspected()
    for text in texts:
        source.add(text)
    return bool(source.found(value, 1, Effort(PLENTY)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("bob@corp.example", "Mail it to bob@corp.example, please."),
        ("bob@corp.example", "Mail it to Bob@Corp.Example."),
        ("bob@corp.example", "to:bob@corp.example;cc:ann@corp.example"),
        ("bob@corp.example", "ann@corp.example,bob@corp.example"),
        ("bob@corp.example", "发给bob@corp.example谢谢"),
        ("bob@corp.example", "Ｂｏｂ＠ｃｏｒｐ．ｅｘａｍｐｌｅ bitte"),
        ("https://docs.example/start", "Look at https://docs.example/start."),
        ("https://docs.example/start", "(https://docs.example/start)"),
        ("https://docs.example/start?a=b#c", "see https://docs.example/start?a=b#c, then"),
        ("docs.example", "Look at https://docs.example/start"),
        ("docs.example", "Look at docs.example."),
        ("octocat", "issue https://github.example/octocat/hello/issues/42"),
        ("AB-1234", "cancel order AB-1234!"),
        ("2500", "pay 2500 EUR"),
        ("Quarterly report", "send the quarterly\n  report to them"),
        ("force", "with --force"),
        ("caffè", "meet me at the caffe\u0300 at noon"),
        ("Straße 5", "she lives in STRAẞE 5 there"),
        ("½ price…", "write ½ price… in the subject"),
        ("Cancel order AB-1234!", "please CANCEL ORDER AB-1234!"),
        ("bob@corp.example", "please ask **bob@corp.example**, now"),
        ("docs.example", "看docs.example。谢谢"),
    ],
)
def test_what_somebody_has_said_is_believed(value: str, said: str) -> None:
    assert believed(value, said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ob@corp.example", "Mail it to bob@corp.example"),
        ("bob@strasse.example", "Mail it to bob@straße.example"),
        ("bob@φίλοσ.example", "Mail it to bob@φίλος.example"),
        ("bob@corp.example", "bob@corp.example.net has it"),
        ("bob@corp.example", "bob@corp.example-net.org"),
        ("bob@corp.example", "the.bob@corp.example"),
        ("bob@corp.example", "x+bob@corp.example"),
        ("bob@corp.example", "bob @ corp.example"),
        ("corp.example", "bob@corp.example"),
        ("corp.example", "www.corp.example"),
        ("corp.example", "my-corp.example"),
        ("https://docs.example", "https://docs.example/start"),
        ("https://docs.example/st", "https://docs.example/start"),
        ("https://docs.example/start", "https://docs.example/start?next=1"),
        ("https://docs.example/start", "https://docs.example/start/more"),
        ("https://docs.example", "https://docs.example@elsewhere.example/"),
        ("https://docs.example", "https://docs.example:8443"),
        ("https://docs.example", "https://docs.example.elsewhere.example"),
        ("https://docs.example/Start", "https://docs.example/start"),
        ("docs.example", "docs.example:8443"),
        ("AB-123", "order AB-1234"),
        ("AB-1234", "order ab-1234"),
        ("AB-1234", "order XAB-1234"),
        ("1234", "order AB-1234"),
        ("1234", "-1234 points"),
        ("1234", "it is 0.1234"),
        ("1234", "it is 1234.5"),
        ("1234", "it is 1234,567"),
        ("1234", "it is 9,1234"),
        ("bob@corp.example\u200b", "bob@corp.example"),
        ("bob@corp.example", "bob@corp.example\u200b.net"),
        ("ｂｏｂ@corp.example", "bob@corp.example"),
        ("bоb@corp.example", "bob@corp.example"),
        ("cafe", "caf\u00e9"),
        ("cafe", "cafe\u0301"),
        ("two texts", "two"),
        ("Cancel order AB-1234", "cancel order ab-1234"),
        ("Open https://docs.example/A", "open https://docs.example/a"),
        ("b@corp.example", "write to a$b@corp.example"),
        ("b@corp.example", "write to a/b@corp.example"),
        ("b@corp.example", "write to a=b@corp.example"),
        ("docs.example", "docs.example。elsewhere.example"),
        ("docs.example", "docs.example．elsewhere.example"),
        ("docs.example", "docs.example\u2024elsewhere.example"),
        ("docs.example", "my\u2010docs.example"),
        ("docs.example", "my\u2011docs.example"),
        ("docs.example", "bob＠docs.example"),
        ("", "anything"),
        (" ", "anything"),
    ],
)
def test_what_nobody_has_said_is_not(value: str, said: str) -> None:
    assert not believed(value, said)


def test_a_value_does_not_stand_across_two_texts() -> None:
    assert not believed("one two", "one", "two") and not suspected("one two", "one", "two")
    assert not believed("one\ntwo", "one", "two") and not suspected("one\ntwo", "one", "two")


@pytest.mark.parametrize(
    ("value", "page"),
    [
        ("evil@bad.example", "EVIL@BAD.EXAMPLE"),
        ("evil@bad.example", "ev\u200bil@b\u00ada\u2060d.example"),
        ("evil@bad.example", "ｅｖｉｌ@bad.example"),
        ("evil@bad.example", "xevil@bad.example.org"),
        ("evil@bad.example", "évil@bàd.example"),
        ("e\u0301vil@bad.example", "evil@bad.example"),
        ("evil at bad", "evil \u00a0\t\n at\u3000bad"),
        ("\u202eevil@bad.example", "evil@bad.example"),
        ("straße", "STRASSE"),
        ("ﬁle-name", "FILE-NAME"),
    ],
)
def test_what_could_stand_there_is_suspected(value: str, page: str) -> None:
    assert suspected(value, page)


TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from("ab ß\u0301\u200bé@.İſﬁ각\u1100\u1161\u11a8\u3000´\n\t")), max_size=40
)


@given(before=TEXTS, part=TEXTS, after=TEXTS)
@example(before="e", part="\u0301abc", after="")
@example(before="\u1100", part="\u1161\u11a8", after="x")
@example(before="x ", part="´", after="y")
@example(before="a", part="\u0345\u0301", after="\u0323")
def test_whatever_is_cut_out_of_a_text_is_suspected(before: str, part: str, after: str) -> None:
    assert skeleton(part) in skeleton(before + part + after)
    assert not skeleton(part) or suspected(part, before + part + after)


@given(TEXTS)
def test_a_skeleton_is_its_own(text: str) -> None:
    assert skeleton(skeleton(text)) == skeleton(text)
    assert "\n" not in skeleton(text)


@given(
    before=st.sampled_from(["", "say ", "(", '"', "\n"]), value=TEXTS, after=st.sampled_from(["", ".", ", ", '"', ") "])
)
def test_a_whole_text_and_what_is_set_off_in_one_are_believed(before: str, value: str, after: str) -> None:
    if value.split() and not value[:1].isspace() and value[:1] not in "\u0301\u200b":
        assert believed(value, value)
    if value.isalnum() and value.isascii():
        assert believed(value, before + value + after)


@given(TEXTS, TEXTS)
def test_what_is_believed_is_suspected_too(value: str, said: str) -> None:
    if believed(value, said):
        assert skeleton(value) in skeleton(said)


@pytest.mark.parametrize(
    "text", ["", "  ", "1", "a b", "ab", "true", "FALSE", "null", "none", "\u0301" * 9, "\u200b" * 9]
)
def test_short(text: str) -> None:
    assert is_short(text)


@pytest.mark.parametrize("text", ["2500", "Anna", "a.b.c"])
def test_not_short(text: str) -> None:
    assert not is_short(text)


@pytest.mark.parametrize(
    ("text", "matters"),
    [
        ("Bob", False),
        ("2026-11-22", False),
        ("bob@corp.example", False),
        ("corp.example", False),
        ("AB-12", True),
        ("dQw4w9", True),
        ("https://corp.example/", True),
        ("a/b", True),
        ("eyJh.eyJz.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", True),
    ],
)
def test_case(text: str, matters: bool) -> None:
    assert case_matters(text) is matters


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (True, ()),
        (None, ()),
        ("", ()),
        (" \n", ()),
        ({}, ()),
        (1e300, ()),
        (float("nan"), ()),
        (10**400, ()),
        (7, ("7", "7.0", "7.00")),
        (2500, ("2500", "2,500", "2500.0", "2500.00")),
        (2500.0, ("2500", "2,500", "2500.0", "2500.00")),
        (2.5, ("2.5", "2.50")),
        (2.125, ("2.125",)),
        ("https://a.example/", ("https://a.example/", "https://a.example")),
        ("https://a.example/b/", ("https://a.example/b/",)),
    ],
)
def test_values_as_text(value: object, texts: tuple[str, ...]) -> None:
    assert written(value) == texts


def test_effort_is_spent_and_then_nothing_is_found() -> None:
    trusted, outside = Believed(), Suspected()
    trusted.add("a hundred characters " * 5)
    outside.add("a hundred characters " * 5)
    effort = Effort(260)
    assert trusted.found("hundred", 1, effort) == [0]
    assert outside.found("hundred", 1, effort) == [0]
    assert trusted.found("hundred", 1, effort) == [] and outside.found("hundred", 1, effort) is None


def test_endless_repetition_is_not_followed() -> None:
    assert not believed("a" * 9, "a" * 1_000_000) and suspected("a" * 9, "a" * 1_000_000)
