"""What a picture is by its own bytes: PNG, JPEG, GIF or WebP, whole, and with nothing behind its end.

Nothing is decoded: the structure is walked from the first byte to the last, so that a file which is a picture to one
reader and something else to another (a page, an archive, a script) is none here.
"""

import re
import struct
import zlib
from collections.abc import Callable
from typing import Final

MAX_SIDE: Final = 10_000
_MAX_CHUNKS: Final = 20_000

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_DEPTHS: Final = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""The bit depths of each colour type (W3C PNG, 11.2.1)."""
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""The markers of JPEG that begin a frame (ITU-T T.81, table B.1)."""
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


class NoPicture(ValueError):
    """The bytes are not one whole picture; the text says what is wrong, for the caller."""


def kind_of(data: bytes) -> str:
    """Return the media type of a picture; :class:`NoPicture` for anything else, or more than :data:`MAX_SIDE` wide."""
    found = next((kind for kind in _KINDS if data.startswith(kind[0])), None)
    if found is None:
        raise NoPicture("is no PNG, JPEG, GIF or WebP picture")
    _, media_type, walk = found
    try:
        width, height, end = walk(data)
    except (IndexError, struct.error):
        raise NoPicture("is a picture that breaks off") from None
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise NoPicture(f"is a picture of {width} × {height}; a side may have 1 to {MAX_SIDE} pixels")
    if end != len(data):
        raise NoPicture("is a picture with something else behind its end")
    return media_type


def _png(data: bytes) -> tuple[int, int, int]:
    size, name = struct.unpack_from(">I4s", data, 8)
    width, height, depth, colour, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    (crc,) = struct.unpack_from(">I", data, 29)
    if name != b"IHDR" or size != 13 or crc != zlib.crc32(data[12:29]):
        raise NoPicture("is a PNG picture with a broken header")
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise NoPicture("is a PNG picture with a broken header")
    place, has_pixels = 33, False
    for _ in range(_MAX_CHUNKS):
        size, name = struct.unpack_from(">I4s", data, place)
        place += 12 + size
        has_pixels = has_pixels or name == b"IDAT"
        if name == b"IEND":
            _require(has_pixels and size == 0, "PNG")
            return width, height, place
    raise NoPicture("is a PNG picture of too many parts")


def _jpeg(data: bytes) -> tuple[int, int, int]:
    place, side = 2, None
    for _ in range(_MAX_CHUNKS):
        _require(data[place] == 0xFF, "JPEG")
        while data[place] == 0xFF:  # any number of fill bytes (T.81, B.1.1.2)
            place += 1
        marker = data[place]
        if marker == 0xD9:
            _require(side is not None, "JPEG")
            assert side is not None
            return *side, place + 1
        _require(marker >= 0xC0 and not 0xD0 <= marker <= 0xD8, "JPEG")
        (size,) = struct.unpack_from(">H", data, place + 1)
        _require(size >= 2, "JPEG")
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 4)
            side = width, height
        place += 1 + size
        if marker == 0xDA:
            _require(side is not None, "JPEG")
            found = _SCAN_END.search(data, place)
            if found is None:
                raise IndexError
            place = found.start()
    raise NoPicture("is a JPEG picture of too many parts")


def _gif(data: bytes) -> tuple[int, int, int]:
    _require(data[:6] in (b"GIF87a", b"GIF89a"), "GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place, has_pixels = 13 + _colours(flags), False
    for _ in range(_MAX_CHUNKS):
        what = data[place]
        if what == 0x3B:
            _require(has_pixels, "GIF")
            return width, height, place + 1
        if what == 0x2C:
            place = _sub_blocks(data, place + 11 + _colours(data[place + 9]))
            has_pixels = True
        else:
            _require(what == 0x21, "GIF")
            place = _sub_blocks(data, place + 2)
    raise NoPicture("is a GIF picture of too many parts")


def _colours(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks(data: bytes, place: int) -> int:
    while size := data[place]:
        place += 1 + size
    return place + 1


def _webp(data: bytes) -> tuple[int, int, int]:
    size, form = struct.unpack_from("<I4s", data, 4)
    _require(form == b"WEBP" and size % 2 == 0, "WebP")
    end, place = 8 + size, 12
    if end > len(data):
        raise IndexError
    width = height = 0
    has_pixels = False
    for count in range(_MAX_CHUNKS):
        if place == end:
            _require(has_pixels, "WebP")
            return width, height, end
        name, length = struct.unpack_from("<4sI", data, place)
        if count == 0:
            width, height = _webp_side(data, name)
        has_pixels = has_pixels or name in (b"VP8 ", b"VP8L", b"ANMF")
        place += 8 + length + length % 2
        _require(place <= end, "WebP")
    raise NoPicture("is a WebP picture of too many parts")


def _webp_side(data: bytes, name: bytes) -> tuple[int, int]:
    """Return width and height by the first chunk (RFC 9649, 2.5 to 2.7)."""
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        _require(data[23:26] == b"\x9d\x01\x2a" and not data[20] & 1, "WebP")
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        _require(data[20] == 0x2F, "WebP")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    _require(name == b"VP8X", "WebP")
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


def _require(holds: bool, kind: str) -> None:
    if not holds:
        raise NoPicture(f"is a {kind} picture that is broken")


_KINDS: Final[tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int, int]]], ...]] = (
    (_PNG, "image/png", _png),
    (b"\xff\xd8\xff", "image/jpeg", _jpeg),
    (b"GIF8", "image/gif", _gif),
    (b"RIFF", "image/webp", _webp),
)
