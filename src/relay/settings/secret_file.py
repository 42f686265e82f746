"""Files that hold secrets: read only when nobody else can change or read them."""

import os
import stat
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 64 * 1024
_MOUNTS: Final = "/proc/self/mountinfo"


class SecretFileError(Exception):
    """The file is not one to take a secret from; the text says why and what to do, never what it holds."""


def read_secret_file(path: Path) -> str:
    """Return the text of a secret's file without its final line break.

    Refused (:class:`SecretFileError`): what cannot be read, is no regular file, belongs to a user other than this one
    and root, can be written by group or others, or can be read by them. Two places may be readable: memory file
    systems (tmpfs, ramfs), as orchestrators mount secrets there under modes of their own choice, and root's files of
    mode 0640, since a service has no other way to read what it must not be able to change.
    """
    try:
        # Without O_NONBLOCK a named pipe would hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            # Checked on the open file: what stands under the name may change in between.
            refuse_exposed(path, os.fstat(descriptor))
            content = os.read(descriptor, _MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    else:
        return _text(path, content)
    raise SecretFileError(f"cannot read {path}: {reason}")


def refuse_foreign(path: Path, status: os.stat_result) -> None:
    """Refuse what another user than this one and root owns, or group or others may write."""
    if status.st_uid not in (0, os.geteuid()):
        raise SecretFileError(f"{path} belongs to another user; it must belong to the one that Relay runs as, or root")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise SecretFileError(f"others can write {path}; run: chmod go-rwx {path}")


def refuse_exposed(path: Path, status: os.stat_result) -> None:
    """Refuse what :func:`read_secret_file` must not read, going by the file's status alone."""
    if not stat.S_ISREG(status.st_mode):
        raise SecretFileError(f"{path} is not a regular file")
    refuse_foreign(path, status)
    mode = stat.S_IMODE(status.st_mode)
    allowed = 0o640 if status.st_uid == 0 and os.geteuid() != 0 else 0o600
    if mode & 0o077 & ~allowed and not _in_memory(status.st_dev):
        raise SecretFileError(f"others can read {path}; run: chmod go-rwx {path}")


def _in_memory(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path(_MOUNTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        # proc(5): id, parent, major:minor, root, mount point, options, optional fields, "-", file system type, …
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == wanted:
            return after.split(" ")[0] in ("tmpfs", "ramfs")
    return False


def _text(path: Path, content: bytes) -> str:
    if len(content) > _MAX_BYTES:
        raise SecretFileError(f"{path} is longer than {_MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise SecretFileError(f"{path} is not UTF-8 text")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SecretFileError(f"{path} is empty")
    return text
