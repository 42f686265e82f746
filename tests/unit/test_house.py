"""Each house rule finds what it is for and leaves alone what only looks like it."""

import subprocess
from pathlib import Path

import pytest

from scripts.house import MAX_LINES, check, known_files

SRC = "src/relay/part.py"


def rules(path: str, text: str) -> list[tuple[str, int]]:
    return [(finding.rule, finding.line) for finding in check(path, text.encode())]


def handler(kind: str, *, above: str = "", beside: str = "", below: str = "") -> str:
    return f"try:\n    x()\n    {above}\nexcept{kind}:{beside}\n    {below}\n    y()\n"


class TestLongFile:
    def test_the_longest_allowed_and_one_more(self) -> None:
        assert rules(SRC, "x = 1\n" * MAX_LINES) == []
        assert rules(SRC, "x = 1\n" * (MAX_LINES + 1)) == [("long-file", MAX_LINES + 1)]

    def test_only_python_under_src_counts(self) -> None:
        assert rules("tests/unit/test_part.py", "x = 1\n" * (MAX_LINES + 1)) == []
        assert rules("src/relay/schema.sql", "x\n" * (MAX_LINES + 1)) == []


class TestBroadExcept:
    @pytest.mark.parametrize("kind", ["", " Exception", " BaseException as error", " (OSError, Exception)"])
    def test_needs_a_reason(self, kind: str) -> None:
        assert rules(SRC, handler(kind)) == [("broad-except", 4)]

    @pytest.mark.parametrize("directive", ["  # noqa: BLE001", "  # type: ignore[misc]", "  # pragma: no cover", "  #"])
    def test_a_directive_is_no_reason(self, directive: str) -> None:
        assert rules(SRC, handler(" Exception", beside=directive)) == [("broad-except", 4)]

    @pytest.mark.parametrize("place", ["above", "beside", "below"])
    def test_a_comment_nearby_is_one(self, place: str) -> None:
        reason = "  # a listener's failure must not end the batch"
        assert rules(SRC, handler(" Exception", **{place: reason})) == []

    def test_a_comment_elsewhere_is_none(self) -> None:
        assert rules(SRC, "# a listener's failure must not end the batch\n" + handler(" Exception")) == [
            ("broad-except", 5)
        ]

    def test_a_hash_in_a_string_is_no_comment(self) -> None:
        text = "try:\n    x()\nexcept Exception: y('# not a comment at all')\n"
        assert rules(SRC, text) == [("broad-except", 3)]

    def test_one_that_raises_again_needs_none(self) -> None:
        assert rules(SRC, "try:\n    x()\nexcept BaseException:\n    y()\n    raise\n") == []

    @pytest.mark.parametrize("body", ["raise Other() from None", "if y():\n        return\n    raise", "raise; x = 1"])
    def test_one_that_does_not_always_raise_the_same_needs_one(self, body: str) -> None:
        assert rules(SRC, f"try:\n    x()\nexcept Exception:\n    {body}\n") == [("broad-except", 3)]

    def test_a_narrow_handler_needs_none(self) -> None:
        assert rules(SRC, handler(" (OSError, ValueError)")) == []


class TestAuditWriter:
    @pytest.mark.parametrize(
        "statement",
        [
            "q = insert(audit_events)",
            "q = insert(tables.audit_events)",
            "q = sqlalchemy.update(tables.audit_head)",
            "q = audit_events.delete()",
            "q = tables.audit_head.insert()",
            'q = "INSERT INTO audit_events (id) VALUES (?)"',
            'q = f"insert or replace into audit_head ({x})"',
            'q = """\n    DELETE FROM audit_events"""',
            "q = 'UPDATE \"audit_events\" SET hash = 1'",
            'q = "TRUNCATE TABLE audit_head"',
        ],
    )
    def test_only_one_module_writes(self, statement: str) -> None:
        assert rules(SRC, f"{statement}\n") == [("audit-writer", 1)]
        assert rules("src/relay/audit/record.py", f"{statement}\n") == []
        assert rules("src/relay/store/migrations/versions/0001_first.py", f"{statement}\n") == []

    @pytest.mark.parametrize(
        "statement",
        [
            "q = select(audit_events)",
            'q = "SELECT hash FROM audit_head FOR UPDATE"',
            "q = insert(attempts)",
            "seen.update(audit_event_ids)",
        ],
    )
    def test_anyone_reads(self, statement: str) -> None:
        assert rules(SRC, f"{statement}\n") == []


class TestLeftOutTest:
    @pytest.mark.parametrize("name", ["mark.skip", "mark.skipif", "mark.xfail", "skip", "xfail", "importorskip"])
    def test_is_found(self, name: str) -> None:
        text = f"import pytest\nx = pytest.{name}\n"
        assert rules("tests/unit/test_part.py", text) == [("left-out-test", 2)]
        assert rules("tests/conftest.py", text) == []

    def test_other_names_are_left_alone(self) -> None:
        assert rules("tests/unit/test_part.py", "import pytest\nx = reader.skip\ny = pytest.mark.timeout\n") == []


class TestMachineDetail:
    @pytest.mark.parametrize(
        "line",
        [
            "pip install --" + "index-url x",
            "--extra-" + "index-url=x",
            '  "resolved": ' + '"https://example.org/a.tgz",',
            "registry " + "= https://example.org",
            "see https://files.py" + "pi.example/x",
            "url = https://example.org/" + "simple",
        ],
    )
    def test_an_index_is_found(self, line: str) -> None:
        assert rules("docs/page.md", f"first\n{line}\n") == [("package-index", 2)]

    @pytest.mark.parametrize("place", ["ro" + "ot", "wo" + "rk", "home/someone", "Us" + "ers/someone"])
    def test_a_path_is_found(self, place: str) -> None:
        assert rules("Makefile", f"x = /{place}/file\n") == [("machine-path", 1)]

    @pytest.mark.parametrize(
        "line",
        [
            "pip-compile --no-emit-index-url",
            "https://example.org/wo" + "rk/item",
            "./wo" + "rk/item",
            "/workspaces/x",
            "a simple/complex case",
            "# GET /package/simple",
        ],
    )
    def test_what_only_looks_like_it(self, line: str) -> None:
        assert rules("docs/page.md", f"{line}\n") == []


class TestSecretFile:
    @pytest.mark.parametrize("path", [".env", "deploy/.env.local", ".env.production", "signing.key", "secrets/a.txt"])
    def test_is_found_by_its_name(self, path: str) -> None:
        assert [finding.rule for finding in check(path, b"\xff\xfe binary")] == ["secret-file"]

    @pytest.mark.parametrize("path", [".env.example", "src/relay/cli/secrets.py", "docs/keys.md"])
    def test_others_are_left_alone(self, path: str) -> None:
        assert rules(path, "") == []


def test_known_files_are_the_tracked_and_the_new_but_not_the_ignored(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    for name in ("ignored.py", "new.py", "tracked.py", "gone.py"):
        (tmp_path / name).write_text("")
    git("add", "tracked.py", "gone.py")
    (tmp_path / "gone.py").unlink()
    assert known_files(tmp_path) == [".gitignore", "new.py", "tracked.py"]
