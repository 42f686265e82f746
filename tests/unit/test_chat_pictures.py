"""What a picture is: by its bytes, from the first to the last."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.chat.attachments import MAX_BASE64, MAX_BYTES, Attachment, picture
from relay.chat.pictures import MAX_SIDE, NoPicture, kind_of
from relay.core.problem import Invalid
from relay.core.validation import validated
from tests.pictures import attached, gif, jpeg, large_png, png, webp, webp_extended, webp_lossy

KINDS = {
    "png": (png, "image/png"),
    "jpeg": (jpeg, "image/jpeg"),
    "gif": (gif, "image/gif"),
    "webp": (webp, "image/webp"),
    "webp lossy": (webp_lossy, "image/webp"),
    "webp extended": (webp_extended, "image/webp"),
}
NAMES = list(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_what_its_bytes_are(name: str) -> None:
    make, media_type = KINDS[name]
    assert kind_of(make()) == media_type
    found = picture(base64.b64encode(make()).decode())
    assert (found.media_type, found.data) == (media_type, make())


@pytest.mark.parametrize("name", NAMES)
def test_a_side_has_a_bound(name: str) -> None:
    make, media_type = KINDS[name]
    for sides in ((MAX_SIDE, 1), (1, MAX_SIDE)):
        assert kind_of(make(*sides)) == media_type
    for sides in ((MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)):
        with pytest.raises(NoPicture, match="pixels"):
            kind_of(make(*sides))


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp lossy"])
def test_a_picture_without_a_side_is_none(name: str) -> None:
    for sides in ((0, 1), (1, 0)):
        with pytest.raises(NoPicture, match="pixels"):
            kind_of(KINDS[name][0](*sides))


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_that_breaks_off_is_none(name: str) -> None:
    whole = KINDS[name][0]()
    for size in range(len(whole)):
        with pytest.raises(NoPicture):
            kind_of(whole[:size])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tail", [b"\0", b"<script>alert(1)</script>", b"PK\x05\x06" + bytes(18), b"%PDF-1.7", png()])
def test_nothing_may_stand_behind_the_end(name: str, tail: bytes) -> None:
    with pytest.raises(NoPicture, match="behind its end"):
        kind_of(KINDS[name][0]() + tail)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        b"<svg/>",
        b"<!doctype html><script>alert(1)</script>",
        b"%PDF-1.7\n",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
        b"\0\0\0\x18ftypavif" + bytes(60),
        b"GIF89a=1//" + bytes(30),
        b"\xff\xd8\xff\xe0<script>",
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(60),
        b" " + png(),
        png().replace(b"IHDR", b"ihdr"),
        png(depth=3),
        png().replace(b"IDAT", b"iDAT"),
        jpeg().replace(b"\xff\xc0", b"\xff\xe1"),
        gif().replace(b"\x2c", b"\x21", 1),
        webp().replace(b"\x2f", b"\x2e"),
        webp_lossy().replace(b"\x9d\x01\x2a", b"\x9d\x01\x2b"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(NoPicture):
        kind_of(data)


@given(st.sampled_from(NAMES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.binary())
def test_whatever_the_bytes_are_the_answer_is_a_kind_or_a_refusal(
    name: str, changes: list[tuple[int, int]], tail: bytes
) -> None:
    data = bytearray(KINDS[name][0]() + tail)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        assert kind_of(bytes(data)) in {kind for _, kind in KINDS.values()}
    except NoPicture as refusal:
        assert str(refusal).startswith("is ")


def test_a_picture_may_be_as_large_as_is_said_and_not_larger() -> None:
    assert len(picture(base64.b64encode(large_png(MAX_BYTES)).decode()).data) == MAX_BYTES
    for text in (base64.b64encode(large_png(MAX_BYTES + 1)).decode(), "A" * (MAX_BASE64 + 4)):
        with pytest.raises(ValueError, match="bytes"):
            picture(text)


@pytest.mark.parametrize("size", [65_536 // 4 * 3 - 1, 65_536 // 4 * 3, 65_536 // 4 * 3 + 1, 300_001])
def test_base64_comes_apart_and_together_again(size: int) -> None:
    assert picture(base64.b64encode(large_png(size)).decode()).data == large_png(size)


SPOILT: dict[str, Callable[[str], str]] = {
    "a line break at the end": lambda text: text + "\n",
    "a line break": lambda text: text[:76] + "\n" + text[76:],
    "a character too few": lambda text: text[:-1],
    "padding too much": lambda text: text + "=",
    "padding first": lambda text: "=" + text,
    "twice": lambda text: text + text,
    "not ASCII": lambda text: text.replace("A", "é", 1),
    "another alphabet": lambda text: text.replace("A", "-", 1),
    "a URL": lambda text: "data:image/png;base64," + text,
}


@pytest.mark.parametrize("how", list(SPOILT))
def test_what_is_not_base64_is_refused(how: str) -> None:
    text = base64.b64encode(png()).decode()
    assert "A" in text and picture(text).media_type == "image/png"
    with pytest.raises(ValueError, match=r"base64|behind its end"):
        picture(SPOILT[how](text))


def test_equals_signs_in_the_middle_of_a_long_text_are_refused() -> None:
    text = base64.b64encode(large_png(300_000)).decode()
    with pytest.raises(ValueError, match="base64"):
        picture(text[:65_532] + "QQ==" + text[65_536:])


@pytest.mark.parametrize(
    ("wire", "pointer"),
    [
        (attached(b"<svg/>"), "/data"),
        ({"data": 5}, "/data"),
        ({}, "/data"),
        (attached(png(), media_type="image/jpeg"), "/media_type"),
        (attached(png(), media_type="image/svg+xml"), "/media_type"),
        (attached(png(), media_type=""), "/media_type"),
        (attached(png(), name="a\nb"), "/name"),
        (attached(png(), name="x" * 256), "/name"),
        (attached(png(), url="https://example.com/"), "/url"),
    ],
)
def test_a_refusal_points_at_the_place(wire: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        validated(Attachment, wire)
    assert [error["pointer"] for error in refused.value.extensions["errors"]] == [pointer]


@pytest.mark.parametrize("said", [None, "image/jpeg", "IMAGE/JPEG", "image/jpg"])
def test_a_media_type_that_is_right_is_taken(said: str | None) -> None:
    found = validated(Attachment, attached(jpeg(), media_type=said, name="Ferien.jpg"))
    assert found.data.media_type == "image/jpeg"


def test_bytes_of_a_picture_are_in_no_representation() -> None:
    secret = large_png(500)
    assert "x" * 20 not in repr(validated(Attachment, attached(secret)))
