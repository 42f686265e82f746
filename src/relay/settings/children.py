"""What a child process finds in its environment.

A server process of ``--workers`` or ``--reload`` reads the sources for itself, and so needs what its parent was given.
Any other child needs no secret, and must not be the place where one is found: it may outlive its parent, dump core, or
hand its environment on to children of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from relay.settings.model import SECRETS

_AWS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def child_environment() -> dict[str, str]:
    """Return this process's environment without any secret, for a child that is no server of ours."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS and name not in _AWS}


@contextmanager
def without_secrets() -> Iterator[None]:
    """Hide the secrets in this process's environment from children that a library starts meanwhile.

    For a moment at which nothing else in this process reads the environment: it belongs to all threads.
    """
    clean = child_environment()
    hidden = {name: value for name, value in os.environ.items() if name not in clean}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
