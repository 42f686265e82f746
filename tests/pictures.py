"""Small pictures of every kind that the chat takes, as bytes and as attachments."""

import base64
import struct
import zlib
from typing import Any


def png(width: int = 2, height: int = 2, *, depth: int = 8, extra: bytes = b"") -> bytes:
    """Return a grey PNG; ``extra`` stands before its pixels."""
    rows = b"".join(b"\0" + bytes(max(1, width * depth // 8)) for _ in range(min(height, 64)))
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def large_png(size: int) -> bytes:
    """Return a PNG of exactly that many bytes."""
    return png(extra=_chunk(b"teXt", b"x" * (size - len(png()) - 12)))


def jpeg(width: int = 2, height: int = 2) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    scan = b"\x01\x01\x00\x00\x3f\x00"
    return (
        b"\xff\xd8"
        + _segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
        + _segment(0xDB, bytes(65))
        + _segment(0xC0, frame)
        + b"\xff\xff"
        + _segment(0xC4, bytes(17))[1:]
        + _segment(0xDA, scan)
        + b"\x12\xff\x00\x34\xff\xd0\x56"
        + b"\xff\xd9"
    )


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def gif(width: int = 1, height: int = 1) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return head + b"\x21\xf9\x04\x01\x00\x00\x00\x00" + image + b"\x3b"


def webp(width: int = 1, height: int = 1) -> bytes:
    return _riff(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(8))


def webp_lossy(width: int = 1, height: int = 1) -> bytes:
    return _riff(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(4))


def webp_extended(width: int = 1, height: int = 1) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    pixels = b"\x2f" + bytes(12)
    return _riff(b"VP8X", canvas, b"VP8L" + struct.pack("<I", len(pixels)) + pixels + b"\0")


def _riff(name: bytes, data: bytes, more: bytes = b"") -> bytes:
    body = b"WEBP" + name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def attached(data: bytes, **more: Any) -> dict[str, Any]:
    """Return bytes as the wire has them."""
    return {"data": base64.b64encode(data).decode(), **more}
