"""Logging to standard error: one JSON object a line, or text on a terminal. See docs/logs.md.

Every logger goes this way, Relay's own and those of libraries: the standard library's :mod:`logging` collects, and
structlog's processors make the line of it.
"""

import logging
import sys
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict

from relay.telemetry import context
from relay.telemetry.lines import Render, console_line, frames_of, json_line
from relay.telemetry.sink import Sink

LogFormat = Literal["auto", "json", "console"]

FIELDS: Final = "fields"
"""What ``extra`` calls a dict of further fields."""
_EXTRAS: Final = ("request_id", "route", "error")
_RENDER: Final[dict[str, Render]] = {"json": json_line, "console": console_line}
_CHATTY: Final = ("alembic", "asyncio", "botocore", "opentelemetry", "procrastinate", "urllib3", "uvicorn")


def configure_logging(level: str, form: LogFormat = "auto", *, by_thread: bool = False) -> None:
    """Send every log record of this process to standard error. ``level`` is a lower-case level name.

    ``by_thread`` is for processes that serve: what cannot be written does not hold them up. It can be called again.
    """
    stream = sys.stderr
    formatter = formatter_for(("console" if stream.isatty() else "json") if form == "auto" else form)
    handler = _SinkHandler(Sink(stream.fileno(), _dropped(formatter))) if by_thread else _StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Libraries' debugging tells what goes through them: aiosqlite's every parameter of every statement.
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("relay").setLevel(level.upper())
    for chatty in _CHATTY:
        # Libraries' chatter about their own working is not an operator's business.
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Nothing of this stands in a line, and each record would ask the system for it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def formatter_for(form: Literal["json", "console"]) -> logging.Formatter:
    """Return the formatter that makes lines of log records."""
    return _Formatter(processors=[_of_record, _RENDER[form]])


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Takes records as they are, where structlog's own copies each one twice: no processor here changes them."""

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "_logger"):
            return super().format(record)
        event: Any = {"event": record.getMessage(), "_record": record, "_from_structlog": False}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        for processor in self.processors:
            event = processor(None, record.levelname, event)
        return str(event)


def _of_record(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """Return the fields of a line, in the order in which it has them."""
    record: logging.LogRecord = event["_record"]
    line: dict[str, Any] = {
        "time": record.created,
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": str(event.pop("event", "")),
    }
    line.update(context.current())
    extra = record.__dict__
    for name in _EXTRAS:
        if name in extra:
            line[name] = extra[name]
    if type(fields := extra.get(FIELDS)) is dict:
        line.update(fields)
    error = _error_of(event.pop("exc_info", None))
    if event["_from_structlog"]:
        line.update((name, value) for name, value in event.items() if not name.startswith("_"))
    if error is not None:
        line["error"] = type(error).__name__
        line["traceback"] = frames_of(error)
    return line


def _error_of(given: Any) -> BaseException | None:
    """Return the exception that a logger was called with, in any of the forms that it may be given in."""
    if isinstance(given, BaseException):
        return given
    found = given if isinstance(given, tuple) else sys.exc_info() if given else (None, None)
    return found[1] if isinstance(found[1], BaseException) else None


class _Careful(logging.Handler):
    """A record that cannot be made a line is told of by its place: what it holds may be anything."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        error = sys.exc_info()[1]
        place = f"{record.pathname}:{record.lineno}"
        note = logging.LogRecord(
            "relay.telemetry", logging.ERROR, "", 0, "a log record of %s has no line: %s", (place, _name(error)), None
        )
        try:
            self._put(self.format(note))
        except Exception:  # standard error is gone; there is nobody left to tell
            return

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._put(self.format(record))
        except Exception:  # whatever a record holds, the code that logs goes on
            self.handleError(record)

    def _put(self, line: str) -> None:
        raise NotImplementedError


class _SinkHandler(_Careful):
    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self._put = sink.put  # type: ignore[method-assign]

    def createLock(self) -> None:  # noqa: N802 - logging's own name
        # The sink has its own, held for an instant; logging's would be held while a line is made.
        self.lock = None

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self._sink.close()
        super().close()


class _StreamHandler(_Careful):
    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def _put(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _name(error: BaseException | None) -> str:
    return type(error).__name__


def _dropped(formatter: logging.Formatter) -> Any:
    def line(number: int) -> str:
        note = logging.LogRecord(
            "relay.telemetry", logging.WARNING, "", 0, "%d log lines were dropped: nobody read them", (number,), None
        )
        setattr(note, FIELDS, {"dropped": number})
        return formatter.format(note)

    return line
