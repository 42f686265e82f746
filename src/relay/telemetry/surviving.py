"""What runs for ever outlives a defect in one of its rounds."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def surviving(log: logging.Logger, what: str) -> Iterator[None]:
    """Log whatever goes wrong in the block and go on after it. A cancellation passes through.

    A background task that ends with an exception is missed by nobody until what it does is: signed heads, purges,
    retries. ``what`` says what broke.
    """
    try:
        yield
    except Exception as error:  # a defect in one round must not end all rounds
        log.error("%s broke: %s", what, type(error).__name__, exc_info=error)
