"""Logging to standard error: text on a terminal, one JSON object per line elsewhere.

Control and bidirectional characters are escaped, so that nothing a caller sends can forge a line, and anything that
looks like an API key is masked, as a backstop: no code logs one on purpose.
"""

import json
import logging
import re
import sys
import time
from typing import Any, Final

_KEY: Final = re.compile(r"relay_sk_[A-Za-z0-9_]+")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_FIELDS: Final = ("request_id", "route", "error")


def configure_logging(level: str) -> None:
    """Send every log record of this process to standard error. ``level`` is a lower-case level name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if sys.stderr.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries' chatter about their own working is not an operator's business.
    for chatty in ("alembic", "asyncio", "procrastinate", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def clean(text: str) -> str:
    """Return ``text`` on one line with its control characters visible and API keys masked."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", _KEY.sub("relay_sk_***", text))


class TextFormatter(logging.Formatter):
    """``12:34:56 INFO relay.http message``; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        lines = [clean(line) for line in _text(record).split("\n")]
        return f"{moment} {record.levelname:<7} {record.name} " + "\n    ".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": "\n".join(clean(part) for part in _text(record).split("\n")),
        }
        line.update({name: clean(str(getattr(record, name))) for name in _FIELDS if hasattr(record, name)})
        return json.dumps(line, ensure_ascii=True)


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        # The exception's own text may quote what a caller sent; its type and place are enough to find it.
        frames = logging.Formatter().formatException(record.exc_info).split("\n")
        text += (
            "\n" + "\n".join(frame for frame in frames if frame.startswith("  ")) + f"\n{record.exc_info[0].__name__}"
        )
    return text
