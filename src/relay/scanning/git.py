"""What git has: the files it knows, what is staged, and every version of every file that a reference leads to.

A repository may be crafted by whoever would hide a key in it, its configuration included. Only commands are used that
read objects; no program runs that the configuration names, nothing is fetched, and no object stands in for another.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final

from relay.settings.children import child_environment

_GIT: Final = (
    *("git", "--no-replace-objects"),
    *("-c", "core.fsmonitor=", "-c", "log.showSignature=false", "-c", "diff.orderFile=/dev/null"),
)
# What a partial clone lacks git would fetch, with the program that the configuration gives for it.
_NOTHING_FETCHED: Final = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
_SUBMODULE: Final = "160000"
_AT_ONCE: Final = 64


class NoRepository(Exception):
    """The folder is in no git repository, or git is not installed."""


class UnreadableRepository(Exception):
    """The repository is damaged, or lacks what it should hold; the text names it and git's complaint."""


@dataclass(frozen=True, slots=True)
class Version:
    """One object: a file's content under the name that leads to it, or a commit or an annotated tag (no name)."""

    name: str
    object: str
    content: bytes


class Repository:
    """A git repository; ``path`` is any folder in it. :class:`NoRepository` when there is none.

    :class:`UnreadableRepository` from every method when git cannot read what it is asked for.
    """

    def __init__(self, path: Path) -> None:
        try:
            top = _run(path, "rev-parse", "--show-toplevel")
        except (UnreadableRepository, OSError):
            raise NoRepository(f"{path} is in no git repository") from None
        self.top: Final = Path(top.rstrip("\n"))

    def files(self, below: Path) -> tuple[list[Path], list[Path]]:
        """Return the files below a folder that git tracks, or would if they were added, and the repositories in it.

        What git ignores is left out, and so are links: git knows where they point, not what is there.
        """
        listed = _run(below, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        entries = sorted({below / name for name in _fields(listed)})
        found = [entry for entry in entries if entry != below and not entry.is_symlink()]
        return [entry for entry in found if entry.is_file()], [entry for entry in found if (entry / ".git").exists()]

    def staged(self) -> Iterator[Version]:
        """Yield the files that the next commit would add or change, as it would have them."""
        changed = _run(self.top, "diff-index", "--cached", "--raw", "-z", "--no-renames", self._base())
        fields = _fields(changed)
        names: dict[str, str] = {}
        for entry, name in zip(fields[::2], fields[1::2], strict=True):
            _, mode, _, blob, status = entry.split(" ")
            if status != "D" and mode != _SUBMODULE:
                names.setdefault(blob, name)
        return self._contents(names)

    def history(self) -> Iterator[Version]:
        """Yield every version of every file, every commit and every annotated tag that a reference leads to, once."""
        named = (line.partition(" ") for line in _run(self.top, "rev-list", "--all", "--objects").split("\n"))
        names = {name: path for name, _, path in named if name}
        for name in _run(self.top, "for-each-ref", "--format=%(objectname)", "refs/tags").split():
            names.setdefault(name, "")
        return self._contents(names)

    def first_commit(self, blob: str) -> str:
        """Return the oldest commit that has an object; the object's own id for a commit or tag."""
        commits = _run(self.top, "log", "--all", "--reverse", "--format=%H", f"--find-object={blob}").split()
        return commits[0] if commits else blob

    def _base(self) -> str:
        """Return the commit to compare with; before the first one the empty tree."""
        try:
            return _run(self.top, "rev-parse", "--verify", "--quiet", "HEAD").strip()
        except UnreadableRepository:
            return _run(self.top, "hash-object", "-t", "tree", "--stdin").strip()

    def _contents(self, names: dict[str, str]) -> Iterator[Version]:
        command = [*_GIT, "-C", str(self.top), "cat-file", "--batch"]
        with subprocess.Popen(  # noqa: S603 - git, with options of this module
            command, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as reading:
            assert reading.stdin is not None and reading.stdout is not None
            left = iter(names.items())
            # So few at a time that the requests fit into the pipe while git waits for its answers to be read.
            while batch := dict(islice(left, _AT_ONCE)):
                reading.stdin.write("".join(f"{name}\n" for name in batch).encode())
                reading.stdin.flush()
                for name, path in batch.items():
                    kind, content = _answer(reading.stdout)
                    if kind != "tree":
                        yield Version(path if kind == "blob" else "", name, content)
            reading.stdin.close()


def _answer(stream: IO[bytes]) -> tuple[str, bytes]:
    head = stream.readline().decode().split()
    if len(head) != 3:  # "missing": a shallow or partial clone
        return "tree", b""
    content = stream.read(int(head[2]))
    stream.read(1)
    return head[1], content


def _run(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(  # noqa: S603 - git, with options of this module
        [*_GIT, "-C", str(folder), *arguments],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UnreadableRepository(f"{folder}: git {arguments[0]} failed: {said}")
    return ran.stdout.decode(errors="surrogateescape")


def _environment() -> dict[str, str]:
    return child_environment() | _NOTHING_FETCHED


def _fields(text: str) -> list[str]:
    return text.split("\0")[:-1]
