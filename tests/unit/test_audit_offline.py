import io
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.audit.chain import COLUMNS, GENESIS, row_hash, row_line
from relay.audit.notes import as_line, from_text, sign_head
from relay.audit.offline import MAX_LINE_BYTES, FileVerification, head_line, header_line, verify_export
from relay.crypto.signing import HeadSigner

SIGNER = HeadSigner(bytes(32), "relay/ins_1")
FORGER = HeadSigner(bytes(range(32)), "relay/ins_1")


def make_rows(length: int, principal: str = "p") -> list[list[Any]]:
    rows: list[list[Any]] = []
    previous = GENESIS
    for seq in range(1, length + 1):
        row: list[Any] = [seq, f"aud_{seq}", 10**15 + seq, "w", principal, "r é\n", "t", *[""] * 6, previous]
        row.append(previous := row_hash(row))
        rows.append(row)
    return rows


def note_of(rows: list[list[Any]], signer: HeadSigner = SIGNER) -> str:
    return sign_head(signer, len(rows), rows[-1][-1] if rows else GENESIS)


def make_export(rows: list[list[Any]], signer: HeadSigner = SIGNER) -> list[bytes]:
    texts = [header_line(signer.name, signer.vkey), *map(row_line, rows), head_line(note_of(rows, signer))]
    return [text.encode() + b"\n" for text in texts]


def check(lines: list[bytes], **given: Any) -> FileVerification:
    return verify_export(io.BytesIO(b"".join(lines)), **given)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_an_intact_export_verifies_and_says_whether_its_key_was_pinned(length: int) -> None:
    rows = make_rows(length)
    loose, pinned = check(make_export(rows)), check(make_export(rows), key=SIGNER.vkey)
    assert (loose.ok, loose.pinned, pinned.ok, pinned.pinned) == (True, False, True, True)
    assert (pinned.size, pinned.head) == (length, rows[-1][-1] if rows else GENESIS)
    assert (pinned.origin, pinned.vkey) == ("relay/ins_1", SIGNER.vkey)


@settings(max_examples=300)
@given(st.data())
def test_no_byte_can_be_changed_removed_or_added(data: st.DataObject) -> None:
    whole = b"".join(make_export(make_rows(3)))
    place = data.draw(st.integers(0, len(whole)))
    removed = data.draw(st.integers(0, 3))
    added = data.draw(st.binary(max_size=3))
    changed = whole[:place] + added + whole[place + removed :]
    found = verify_export(io.BytesIO(changed), key=SIGNER.vkey)
    assert found.ok == (changed == whole)
    assert found.ok or (found.line and found.reason)


@given(st.one_of(st.binary(max_size=200), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_garbage_is_an_answer_and_never_an_error(raw: bytes) -> None:
    first = make_export([])[0]
    for content in (raw, first + raw, first + raw + b"\n"):
        found = verify_export(io.BytesIO(content))
        assert not found.ok and found.line and found.reason


@pytest.mark.parametrize(
    "line",
    [b"[" * 10_000, b'{"a":' * 3_000, b"9" * 5_000, b'{"head":1}', b'{"head":null}', b"[]", b"null", b"1", b"", b"NaN"],
)
def test_hostile_lines_are_answered_with_their_number(line: bytes) -> None:
    found = check([make_export([])[0], line + b"\n"])
    assert not found.ok and found.line == 2


def test_a_line_without_end_is_not_read_to_its_end() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.taken += len(buffer)
            assert self.taken < 100 * MAX_LINE_BYTES
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    found = verify_export(io.BufferedReader(Endless()))
    assert not found.ok and found.line == 1 and str(found.reason).endswith(": the line is too long")


def test_a_key_given_twice_is_refused() -> None:
    lines = make_export(make_rows(2))
    lines[1] = lines[1].replace(b'{"action":""', b'{"action":"","action":""', 1)
    assert check(lines).line == 2


@given(st.data())
def test_any_changed_column_is_found_even_when_its_row_is_rehashed(data: st.DataObject) -> None:
    rows = make_rows(4)
    number, column = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(COLUMNS) - 2))
    old = rows[number][column]
    rows[number][column] = old + 1 if isinstance(old, int) else old + "x"
    rows[number][-1] = row_hash(rows[number])
    lines = [*make_export(rows)[:-1], make_export(make_rows(4))[-1]]
    assert not check(lines).ok


@pytest.mark.parametrize("place", [1, 2, 3])
def test_deletion_swap_and_repetition_of_lines_are_found(place: int) -> None:
    lines = make_export(make_rows(4))
    assert not check(lines[:place] + lines[place + 1 :]).ok
    assert not check([*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]).ok
    assert not check([*lines[:place], lines[place], *lines[place:]]).ok


def test_truncation_is_found() -> None:
    lines = make_export(make_rows(4))
    assert "cut off" in str(check(lines[:-1]).reason)
    assert "other events" in str(check([*lines[:-2], lines[-1]]).reason)


def test_what_follows_the_head_is_found() -> None:
    lines = make_export(make_rows(2))
    assert check([*lines, b"{}\n"]).line == 5
    assert check([*lines, lines[-1]]).line == 5


def test_a_whole_rewriting_with_another_key_is_found_with_the_pinned_key_only() -> None:
    forged = make_export(make_rows(4, "nobody"), FORGER)
    assert check(forged).ok
    assert not check(forged, key=SIGNER.vkey).ok
    disguised = [header_line(SIGNER.name, SIGNER.vkey).encode() + b"\n", *forged[1:]]
    assert not check(disguised, key=SIGNER.vkey).ok and not check(disguised).ok


@pytest.mark.parametrize("size", [0, 1, 3, 4])
def test_an_earlier_head_must_be_a_beginning(size: int) -> None:
    rows = make_rows(4)
    assert check(make_export(rows), head=note_of(rows[:size])).ok
    assert check(make_export(rows), head=from_text(as_line(note_of(rows[:size])) + "\n")).ok
    other = make_rows(4, "nobody")
    assert check(make_export(other), head=note_of(rows[:size])).ok == (size == 0)


def test_a_log_shorter_than_the_given_head_was_cut_off() -> None:
    rows = make_rows(4)
    assert "cut off" in str(check(make_export(rows[:3]), head=note_of(rows)).reason)
    # The head is the first thing that may not be forged itself.
    assert not check(make_export(rows), head=note_of(rows, FORGER)).ok
    assert not check(make_export(rows), head="").ok


def test_the_log_of_another_installation_is_not_this_one() -> None:
    other = HeadSigner(bytes(32), "relay/ins_2")
    lines = make_export(make_rows(1), other)
    lines[0] = header_line("relay/ins_1", other.vkey).encode() + b"\n"
    assert not check(lines).ok


def test_the_offline_verifier_imports_nothing_of_the_server() -> None:
    script = (
        "import sys, relay.audit.offline\n"
        "ours = {'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('relay.')}\n"
        "assert ours == {'relay.audit', 'relay.core', 'relay.crypto'}, ours\n"
        "assert not {'sqlalchemy', 'fastapi', 'psycopg', 'sqlite3', 'pydantic'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=30)
