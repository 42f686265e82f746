"""One scan: of files and folders, of what is staged, or of a repository's whole history."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relay.scanning.detect import Found, find
from relay.scanning.git import NoRepository, Repository, UnreadableRepository, Version
from relay.telemetry.lines import plain

LARGEST: Final = 64 * 1024 * 1024
ALLOW_FILE: Final = ".relay-secrets-allow"
_LARGEST_LIST: Final = 1024 * 1024
_NEVER_ENTERED: Final = frozenset({".git", ".venv", "node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looks like a credential, and where. ``commit`` is the first that has it, in a history alone.

    ``relay_key`` is the text of a key of Relay, for finding out whether it lives; it is in no ``repr``.
    """

    path: str
    line: int
    kind: str
    fingerprint: str
    commit: str | None = None
    relay_key: str | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        where = plain(f"{self.commit[:12]}:{self.path}" if self.commit else self.path)
        return f"{where}:{self.line}: {self.kind} [{self.fingerprint}]"


@dataclass(slots=True)
class Report:
    """What a scan found. ``left_out`` names what could not be looked at, and why."""

    findings: list[Finding] = field(default_factory=list)
    scanned: int = 0
    left_out: list[str] = field(default_factory=list)

    def add(self, name: str, content: bytes, allowed: frozenset[str], commit: str | None = None) -> list[Found]:
        """Scan one content; return what was found in it."""
        self.scanned += 1
        read = dict.fromkeys(one for text in _readings(content) for one in find(text))
        found = [one for one in read if one.fingerprint not in allowed]
        self.findings += (Finding(name, one.line, one.kind, one.fingerprint, commit, one.relay_key) for one in found)
        return found


def scan_path(path: Path) -> Report:
    """Scan a file, or a folder: in a git repository what git knows or would add, elsewhere everything in it.

    OSError when ``path`` cannot be read.
    """
    report = Report()
    if not path.is_dir():
        report.add(str(path), path.read_bytes(), allowed_near(path.parent))
        return report
    allowed = allowed_near(path)
    for file in _files(path, report):
        _add_file(report, file, os.path.relpath(file, path), allowed)
    return report


def scan_files(files: Iterable[Path], top: Path) -> Report:
    """Scan these files of a repository; names in the report are relative to ``top``."""
    report, allowed = Report(), allowed_near(top)
    for file in files:
        _add_file(report, file, os.path.relpath(file, top), allowed)
    return report


def scan_staged(path: Path) -> Report:
    """Scan what the next commit in the repository of ``path`` would add. NoRepository when there is none."""
    repository, report = Repository(path), Report()
    allowed = allowed_near(repository.top)
    for version in repository.staged():
        report.add(version.name, version.content, allowed)
    return report


def scan_history(path: Path) -> Report:
    """Scan every version of every file, every commit message and every tag in the repository of ``path``."""
    repository, report = Repository(path), Report()
    allowed = allowed_near(repository.top)
    for version in repository.history():
        _add_version(report, repository, version, allowed)
    return report


def allowed_near(folder: Path) -> frozenset[str]:
    """Return the fingerprints in ``.relay-secrets-allow`` of a folder: one a line, then a comment."""
    file = folder / ALLOW_FILE
    if file.is_symlink() or not file.is_file():
        return frozenset()  # a link to a device, or a FIFO, has no end
    lines = file.read_bytes()[:_LARGEST_LIST].decode(errors="replace").splitlines()
    return frozenset(word for line in lines if (word := line.partition("#")[0].strip()))


def _files(folder: Path, report: Report) -> Iterator[Path]:
    try:
        files, inner = Repository(folder).files(folder)
    except NoRepository:
        yield from _walked(folder, report)
        return
    except UnreadableRepository as error:
        report.left_out.append(str(error))
        return
    yield from files
    for repository in inner:  # a submodule, or one that lies here: git looks into neither
        yield from _files(repository, report)


def _walked(folder: Path, report: Report) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report.left_out.append(f"{error.filename}: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(set(folders) - _NEVER_ENTERED)
        yield from (Path(parent, name) for name in sorted(names))


def _add_file(report: Report, file: Path, name: str, allowed: frozenset[str]) -> None:
    try:
        if not file.is_file():
            return  # a FIFO, a socket or a device has no end
        if file.stat().st_size > LARGEST:
            report.left_out.append(f"{name}: larger than {LARGEST >> 20} MiB")
            return
        content = file.read_bytes()
    except OSError as error:
        report.left_out.append(f"{name}: {error.strerror}")
        return
    report.add(name, content, allowed)


def _add_version(report: Report, repository: Repository, version: Version, allowed: frozenset[str]) -> None:
    name = version.name or "(message)"
    if len(version.content) > LARGEST:
        report.scanned += 1
        report.left_out.append(f"{name} ({version.object[:12]}): larger than {LARGEST >> 20} MiB")
        return
    before = len(report.findings)
    if report.add(name, version.content, allowed):
        commit = repository.first_commit(version.object)
        found = report.findings[before:]
        report.findings[before:] = [
            Finding(one.path, one.line, one.kind, one.fingerprint, commit, one.relay_key) for one in found
        ]


def _readings(content: bytes) -> Iterator[str]:
    """Yield the texts that a content may be meant as; which one it is, is for whoever wrote it to say, and to lie."""
    if b"\0" not in content:
        yield content.decode("utf-8", errors="replace")
        return
    # A database or an archive that is not compressed may hold a key as it is; UTF-16 and UTF-32 have it with zeros.
    yield content.decode("latin-1")
    yield content.replace(b"\0", b"").decode("latin-1")
