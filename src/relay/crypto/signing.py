"""Signed notes (https://c2sp.org/signed-note) and checkpoints (https://c2sp.org/tlog-checkpoint) under Ed25519."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from relay.crypto.digest import sha256

_ED25519: Final = b"\x01"
_MARK: Final = "\u2014 "
_MAX_SIGNATURES: Final = 100
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME: Final = re.compile(r"[^\s+]+")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class SignatureError(Exception):
    """The note or checkpoint is malformed, not signed by the expected key, or was changed."""


class HeadSigner:
    """Signs notes with one Ed25519 key under one name.

    ``seed`` is the 32-byte private key, ``name`` has neither white space nor ``+`` (a URL without scheme is the
    custom); ValueError otherwise. ``vkey`` is the public half, for verifiers.
    """

    def __init__(self, seed: bytes, name: str) -> None:
        if not _NAME.fullmatch(name) or _CONTROL.search(name):
            raise ValueError("the name of a signing key has neither white space nor a plus sign")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = _ED25519 + self._key.public_key().public_bytes_raw()
        self._hash = _key_hash(name, public)
        self.name: Final = name
        self.vkey: Final = f"{name}+{self._hash.hex()}+{base64.b64encode(public).decode()}"

    def sign(self, text: str) -> str:
        """Return the signed note over ``text``, which ends in a newline and has no other control character."""
        if not text.endswith("\n") or _CONTROL.search(text):
            raise ValueError("the text of a note ends in a newline and has no other control character")
        signature = base64.b64encode(self._hash + self._key.sign(text.encode())).decode()
        return f"{text}\n{_MARK}{self.name} {signature}\n"


def verify_note(note: str, vkey: str) -> str:
    """Return the text of ``note`` if the key of ``vkey`` signed it, without its signatures.

    Signatures by other keys are ignored, as the specification asks; one by this key that does not verify rejects
    the note whatever else stands in it. :class:`SignatureError` for anything else; it raises nothing else.
    """
    name, key_hash, public = _parse_vkey(vkey)
    text, lines = _split(note)
    ours = [raw[4:] for signer, raw in map(_parse_line, lines) if signer == name and raw[:4] == key_hash]
    if not ours:
        raise SignatureError("the note is not signed by this key")
    message = text.encode()
    if not all(_verifies(public, signature, message) for signature in ours):
        raise SignatureError("the signature does not match the text")
    return text


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: who says so, how many entries, and the 32-byte hash that covers them."""

    origin: str
    size: int
    root: bytes


def checkpoint(origin: str, size: int, root: bytes) -> str:
    """Return the text of a checkpoint, ready to be signed; ValueError for parts that cannot stand in one."""
    if not origin or "\n" in origin or _CONTROL.search(origin) or not 0 <= size < 2**63 or len(root) != 32:
        raise ValueError("a checkpoint has a one-line origin, a size from 0 to 2**63 - 1 and a root of 32 bytes")
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the parts of a checkpoint's text; further lines are extensions and are ignored.

    :class:`SignatureError` for anything malformed; it raises nothing else.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]) or not _SIZE.fullmatch(lines[1]):
        raise SignatureError("this is not a checkpoint")
    size, root = int(lines[1]), _unbase64(lines[2])
    if size >= 2**63 or len(root) != 32:
        raise SignatureError("this is not a checkpoint")
    return Checkpoint(origin=lines[0], size=size, root=root)


def _key_hash(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + public)[:4]


def _parse_vkey(vkey: str) -> tuple[str, bytes, Ed25519PublicKey]:
    name, _, rest = _encodable(vkey).partition("+")
    hexed, _, encoded = rest.partition("+")
    public = _unbase64(encoded)
    if not _NAME.fullmatch(name) or public[:1] != _ED25519 or len(public) != 33:
        raise SignatureError("this is not an Ed25519 verifier key")
    key_hash = _key_hash(name, public)
    if hexed != key_hash.hex():
        raise SignatureError("the verifier key contradicts its own hash")
    return name, key_hash, Ed25519PublicKey.from_public_bytes(public[1:])


def _split(note: str) -> tuple[str, list[str]]:
    text, gap, signatures = _encodable(note).rpartition("\n\n")
    lines = signatures.split("\n")
    if not gap or lines.pop() or not lines or len(lines) > _MAX_SIGNATURES or _CONTROL.search(note):
        raise SignatureError("this is not a signed note")
    return text + "\n", lines


def _parse_line(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_MARK).partition(" ")
    raw = _unbase64(encoded)
    if not line.startswith(_MARK) or not _NAME.fullmatch(name) or len(raw) < 5:
        raise SignatureError("the note has a malformed signature line")
    return name, raw


def _verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _encodable(text: str) -> str:
    # Text with lone surrogates has no UTF-8 form, so nothing can have signed it.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SignatureError("this is not valid text") from None
    return text


def _unbase64(text: str) -> bytes:
    # Decoders forgive stray bits at the end; a second spelling of one signature must not pass for another note.
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""
