"""Runs a command under the rules of `deploy/systemd/relay.service` that a process can set for itself.

    python confined.py UNIT COMMAND [ARGUMENT …]

These are what could break Relay: the filter of system calls, the address families and MemoryDenyWriteExecute. The
sets of system calls are systemd's own.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_ALLOW = 0x7FFF0000
_ERRNO_EPERM = 0x00050001
_EQUAL = 4
_PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 38, 65
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def settings(unit: str) -> dict[str, list[str]]:
    """Return the values of every directive of a unit, in order."""
    found: dict[str, list[str]] = {}
    for line in Path(unit).read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def system_calls(group: str) -> set[str]:
    """Return the system calls of one of systemd's groups, those of the groups within it too."""
    command = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[1:]
    names = {line.strip() for line in listed if line.strip() and not line.strip().startswith("#")}
    inner = {name for name in names if name.startswith("@")}
    return (names - inner).union(*(system_calls(name) for name in inner))


def allowed(filters: list[str]) -> set[str]:
    """Return what the ``SystemCallFilter=`` lines leave: lists that allow, then those that begin with ``~``."""
    left: set[str] = set()
    for line in filters:
        calls = set[str]().union(*(system_calls(group) for group in line.removeprefix("~").split()))
        left = left - calls if line.startswith("~") else left | calls
    return left


def confine(calls: set[str], families: list[str]) -> None:
    """Put this process, and what it becomes, under the filter."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO_EPERM)))
    for name in sorted(calls - {"socket"}):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else it belongs to another architecture
            assert library.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0) == 0, name
    socket = library.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        only = _Comparison(0, _EQUAL, _FAMILIES[family], 0)
        assert library.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), socket, 1, ctypes.byref(only)) == 0
    process = ctypes.CDLL(None)
    assert process.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    process.prctl(_PR_SET_MDWE, 1, 0, 0, 0)  # Linux 6.3; before that the filter alone is tried
    assert library.seccomp_load(context) == 0


def main() -> None:
    unit = settings(sys.argv[1])
    confine(allowed(unit["SystemCallFilter"]), unit["RestrictAddressFamilies"][0].split())
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
