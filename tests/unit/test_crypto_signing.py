"""Signed notes and checkpoints: interoperable, and total over hostile input."""

import base64
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from relay.crypto.signing import Checkpoint, HeadSigner, SignatureError, checkpoint, parse_checkpoint, verify_note

# From the documentation of golang.org/x/mod/sumdb/note, the first implementation of the format.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SIGNER = HeadSigner(b"\x07" * 32, "relay.example/audit")
OTHER = HeadSigner(b"\x08" * 32, "witness.example")
TEXT = checkpoint("relay.example/audit", 42, bytes(range(32)))
NOTE = SIGNER.sign(TEXT)


def test_a_note_of_another_implementation_verifies_and_is_reproduced() -> None:
    assert verify_note(GO_NOTE, GO_VKEY) == GO_TEXT
    signer = HeadSigner(GO_SEED, "PeterNeumann")
    assert signer.vkey == GO_VKEY
    assert signer.sign(GO_TEXT) == GO_NOTE


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), min_size=1))
def test_what_is_signed_verifies(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    assert verify_note(SIGNER.sign(text), SIGNER.vkey) == text


@given(st.integers(0, len(NOTE) - 1), st.characters())
def test_a_changed_character_is_refused(place: int, char: str) -> None:
    changed = NOTE[:place] + char + NOTE[place + 1 :]
    if changed != NOTE:
        with pytest.raises(SignatureError):
            verify_note(changed, SIGNER.vkey)


@given(st.text(st.characters(exclude_categories=[])))
def test_verifying_raises_nothing_but_signature_errors(text: str) -> None:
    for note, vkey in [(text, SIGNER.vkey), (NOTE, text), (text + NOTE, SIGNER.vkey), (NOTE + text, SIGNER.vkey + " ")]:
        if note != NOTE or vkey != SIGNER.vkey:
            with pytest.raises(SignatureError):
                verify_note(note, vkey)
    with pytest.raises(SignatureError):
        verify_note(f"a\n\n— {text}\n", SIGNER.vkey)


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_as_public_key_raise_nothing_else(public: bytes) -> None:
    from relay.crypto.digest import sha256

    raw = b"\x01" + public
    vkey = f"n+{sha256(b'n' + chr(10).encode() + raw)[:4].hex()}+{base64.b64encode(raw).decode()}"
    note = f"a\n\n— n {base64.b64encode(bytes.fromhex(vkey.split('+')[1]) + bytes(64)).decode()}\n"
    # A key of small order (a verifier would have to be given one) accepts signatures that nobody made.
    with suppress(SignatureError):
        assert verify_note(note, vkey) == "a\n"


def test_signatures_of_other_keys_are_ignored_in_any_order() -> None:
    theirs = OTHER.sign(TEXT).rpartition("\n\n")[2]
    for note in (NOTE + theirs, f"{TEXT}\n{theirs}{NOTE.rpartition(chr(10) * 2)[2]}"):
        assert verify_note(note, SIGNER.vkey) == verify_note(note, OTHER.vkey) == TEXT


def test_a_false_signature_of_ours_rejects_the_note_beside_a_good_one() -> None:
    false = SIGNER.sign("something else\n").rpartition("\n\n")[2]
    with pytest.raises(SignatureError):
        verify_note(NOTE + false, SIGNER.vkey)


def test_a_note_signed_by_someone_else_is_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by this key"):
        verify_note(OTHER.sign(TEXT), SIGNER.vkey)
    same_name = HeadSigner(b"\x09" * 32, SIGNER.name)
    with pytest.raises(SignatureError):
        verify_note(same_name.sign(TEXT), SIGNER.vkey)


def test_a_signature_by_another_key_of_the_same_name_is_ignored() -> None:
    # A rotated key keeps its name; the specification tells keys apart by name and hash together.
    older = HeadSigner(b"\x09" * 32, SIGNER.name).sign(TEXT).rpartition("\n\n")[2]
    assert verify_note(NOTE + older, SIGNER.vkey) == TEXT


@pytest.mark.parametrize("text", ["a\tb\n", "a\r\n", "\x00\n"])
def test_a_rightly_signed_text_with_control_characters_is_refused(text: str) -> None:
    raw = bytes.fromhex(SIGNER.vkey.split("+")[1]) + Ed25519PrivateKey.from_private_bytes(b"\x07" * 32).sign(
        text.encode()
    )
    with pytest.raises(SignatureError):
        verify_note(f"{text}\n— {SIGNER.name} {base64.b64encode(raw).decode()}\n", SIGNER.vkey)


def test_the_number_of_signatures_is_bounded() -> None:
    line = OTHER.sign(TEXT).rpartition("\n\n")[2]
    assert verify_note(NOTE + line * 99, SIGNER.vkey) == TEXT
    with pytest.raises(SignatureError):
        verify_note(NOTE + line * 100, SIGNER.vkey)


def test_a_second_spelling_of_a_signature_is_refused() -> None:
    # Two bits of the last character before the padding do not count; a lax decoder takes any of them.
    assert NOTE.endswith("=\n")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(NOTE[-3])
    respelled = NOTE[:-3] + alphabet[last ^ 1] + "=\n"
    assert base64.b64decode(respelled.split(" ")[-1]) == base64.b64decode(NOTE.split(" ")[-1])
    with pytest.raises(SignatureError):
        verify_note(respelled, SIGNER.vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\n", "a\x00"])
def test_names_that_cannot_stand_in_a_note_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        HeadSigner(b"\x07" * 32, name)


@pytest.mark.parametrize("text", ["", "no end", "a\r\n", "a\x00\n", "tab\there\n"])
def test_texts_that_cannot_be_notes_are_not_signed(text: str) -> None:
    with pytest.raises(ValueError):
        SIGNER.sign(text)


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_checkpoints_go_there_and_back(size: int, root: bytes) -> None:
    text = checkpoint("relay.example/audit", size, root)
    assert text == f"relay.example/audit\n{size}\n{base64.b64encode(root).decode()}\n"
    assert parse_checkpoint(text) == Checkpoint("relay.example/audit", size, root)
    assert parse_checkpoint(text + "an extension\n").size == size


ROOT64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        f"\n1\n{ROOT64}\n",
        f"a\n01\n{ROOT64}\n",
        f"a\n-1\n{ROOT64}\n",
        f"a\n+1\n{ROOT64}\n",
        f"a\n١\n{ROOT64}\n",
        f"a\n{2**63}\n{ROOT64}\n",
        f"a\n1\n{ROOT64}",
        f"a\n1\n{ROOT64[:-4]}\n",
        f"a\n1\n{ROOT64}\n\n",
        f"a\n1 \n{ROOT64}\n",
        "a\n1\n!\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        parse_checkpoint(text)


@given(st.text(st.characters(exclude_categories=[])))
def test_parsing_checkpoints_raises_nothing_else(text: str) -> None:
    for candidate in (text, f"a\n{text}\n{ROOT64}\n", f"a\n1\n{text}\n", f"{text}\n1\n{ROOT64}\n"):
        try:
            found = parse_checkpoint(candidate)
        except SignatureError:
            continue
        assert candidate.startswith(f"{found.origin}\n{found.size}\n")


@pytest.mark.parametrize(
    ("origin", "size", "root"), [("", 1, bytes(32)), ("a\nb", 1, bytes(32)), ("a", -1, bytes(32)), ("a", 1, bytes(31))]
)
def test_checkpoints_that_cannot_be_are_not_made(origin: str, size: int, root: bytes) -> None:
    with pytest.raises(ValueError):
        checkpoint(origin, size, root)
