"""Room for connections: each is an open file, and a process that runs out of them cannot open its database either."""

import resource
from typing import Final

RESERVE: Final = 256
"""Files beside the connections: database, log, outgoing connections."""


def make_room(connections: int) -> str | None:
    """Raise this process's own limit of open files to what so many connections need.

    Return a sentence for the operator where the system's limit forbids it.
    """
    needed = connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _reaches(soft, needed):
        return None
    if _reaches(hard, needed):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (
        f"this process may open {hard} files, and MAX_CONNECTIONS={connections} needs {needed}: "
        "raise the limit (LimitNOFILE=, ulimit -n) or lower the setting"
    )


def _reaches(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
