"""House rules that the linters cannot see, over the files that git knows: ``python -m scripts.house``.

Exit status 0 when every rule holds, 1 with one ``path:line: rule: what`` per finding otherwise.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

MAX_LINES: Final = 450


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule, and where."""

    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


@dataclass(frozen=True, slots=True)
class Source:
    """A text file of the repository, with its path relative to the top."""

    path: str
    text: str

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py")

    def lines(self) -> list[str]:
        return self.text.splitlines()

    def under(self, *folders: str) -> bool:
        return self.path.startswith(tuple(f"{folder}/" for folder in folders))


Rule = Callable[[Source], Iterator[Finding]]


def long_file(source: Source) -> Iterator[Finding]:
    """A file under src has at most MAX_LINES lines."""
    count = len(source.lines())
    if source.is_python and source.under("src") and count > MAX_LINES:
        yield Finding(source.path, count, "long-file", f"{count} lines; split it, {MAX_LINES} are the most")


_BROAD: Final = frozenset({"Exception", "BaseException"})
_DIRECTIVE: Final = re.compile(r"#\s*(noqa|type:\s*ignore|pragma)\b[^#]*")
_REASON: Final = re.compile(r"\w\W+\w+\W+\w")


def broad_except(source: Source) -> Iterator[Finding]:
    """``except Exception`` and wider say why, in a comment beside, right above or right below the line.

    One that ends by raising the same exception again swallows nothing and needs no reason.
    """
    if not source.is_python or not source.under("src"):
        return
    comments = _comments(source.text)
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _passes_on(node):
            near = " ".join(comments.get(line, "") for line in range(node.lineno - 1, node.lineno + 2))
            if not _REASON.search(_DIRECTIVE.sub("", near)):
                yield Finding(source.path, node.lineno, "broad-except", "say in a comment why all of them are caught")


def _passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    returns = any(isinstance(node, ast.Return) for statement in handler.body for node in ast.walk(statement))
    return isinstance(last, ast.Raise) and last.exc is None and not returns


def _is_broad(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_broad(element) for element in node.elts)
    return node is None or (isinstance(node, ast.Name) and node.id in _BROAD)


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


_AUDIT_TABLES: Final = frozenset({"audit_events", "audit_head"})
_AUDIT_WRITERS: Final = ("src/relay/audit/record.py", "src/relay/store/migrations/")
_WRITES: Final = frozenset({"insert", "update", "delete"})
_WRITING_SQL: Final = re.compile(
    r"\b(insert\s+(or\s+\w+\s+)?into|update|delete\s+from|truncate(\s+table)?)\s+[\"']?(audit_events|audit_head)\b",
    re.I,
)


def audit_writer(source: Source) -> Iterator[Finding]:
    """Only ``relay.audit.record`` builds a statement that writes the chain; migrations make its tables."""
    if not source.is_python or not source.under("src") or source.path.startswith(_AUDIT_WRITERS):
        return
    for node in ast.walk(ast.parse(source.text)):
        if _writes_audit(node):
            line = getattr(node, "lineno", 1)
            yield Finding(source.path, line, "audit-writer", "only relay.audit.record writes the audit chain")


def _writes_audit(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and _WRITING_SQL.search(node.value) is not None
    return isinstance(node, ast.Call) and _is_audit_statement(node)


def _is_audit_statement(call: ast.Call) -> bool:
    function = call.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if name not in _WRITES:
        return False
    tables = [*call.args, function.value] if isinstance(function, ast.Attribute) else call.args
    return any(_name_of(table) in _AUDIT_TABLES for table in tables)


def _name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


_LEFT_OUT: Final = frozenset({"skip", "skipif", "skipIf", "skipUnless", "xfail", "importorskip"})


def left_out_test(source: Source) -> Iterator[Finding]:
    """No test is skipped or expected to fail; tests/conftest.py alone may leave out by name what a machine lacks."""
    if not source.is_python or not source.under("tests") or source.path == "tests/conftest.py":
        return
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, ast.Attribute) and node.attr in _LEFT_OUT and _root(node) in {"pytest", "unittest"}:
            yield Finding(source.path, node.lineno, "left-out-test", f"{node.attr} hides a test that does not run")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


_INDEX: Final = re.compile(
    r"--(extra-)?index-url\b"
    r"|\"resolved\": *\"http"
    r"|^\s*registry *="
    r"|https?://[^ \"/]*(registry|pypi|npm)[^ \"/]*/"
    r"|^[^#]*/simple/?[\"' ]*$"
)
_PLACE: Final = re.compile(r"(?<![\w.:/-])/(?:root|work|home/\w+|Users/\w+|opt/(?:pypi|wheels))/")


def machine_detail(source: Source) -> Iterator[Finding]:
    """No file names a package index or a path of the machine that it was written on."""
    for number, line in enumerate(source.lines(), start=1):
        if _INDEX.search(line):
            yield Finding(source.path, number, "package-index", "an index belongs into the machine's own settings")
        if _PLACE.search(line):
            yield Finding(source.path, number, "machine-path", "a path of one machine")


def secret_file(path: str) -> Iterator[Finding]:
    """No ``.env``, ``*.key`` or file under ``secrets/`` is tracked, whatever it holds."""
    pure = PurePosixPath(path)
    env = pure.name.startswith(".env") and pure.name != ".env.example"
    if env or pure.suffix == ".key" or "secrets" in pure.parts[:-1]:
        yield Finding(path, 1, "secret-file", "files of this name hold secrets and stay out of the repository")


RULES: Final[tuple[Rule, ...]] = (long_file, broad_except, audit_writer, left_out_test, machine_detail)


def check(path: str, content: bytes) -> list[Finding]:
    """Return every finding in one file; a binary file is judged by its name alone."""
    findings = list(secret_file(path))
    try:
        source = Source(path, content.decode())
    except UnicodeDecodeError:
        return findings
    for rule in RULES:
        findings.extend(rule(source))
    return findings


def known_files(top: Path) -> list[str]:
    """Return the files that git tracks, or would if they were added; sorted, relative to ``top``."""
    command = ["git", "-C", str(top), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    return sorted({name for name in listed.split("\0") if name and (top / name).is_file()})


def main() -> int:
    top = Path(__file__).resolve().parent.parent
    names = known_files(top)
    findings = [finding for name in names for finding in check(name, (top / name).read_bytes())]
    for finding in findings:
        print(finding)
    print(f"house rules: {len(names)} files, {len(findings)} findings")
    return 1 if findings or not names else 0


if __name__ == "__main__":
    sys.exit(main())
