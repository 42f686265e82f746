"""The client's side of HTTP/1.1 with a bound on interim answers (1xx, RFC 9110 section 15.2), which aiohttp lacks.

A server may send any number of them before its answer. aiohttp takes them one by one without letting anybody else have
a turn, so a server that never ends would hold the whole process.
"""

import functools
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

MAX_INTERIM: Final = 8
_PIECE: Final = 4096
_SWITCHING: Final = 101


class BoundedHandler(ResponseHandler):
    """A connection that breaks off at the ninth interim answer, as if it had been malformed.

    What comes before the answer is parsed in small pieces: a whole read may hold thousands of interim answers.
    """

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._interim = 0
        self._answered = False
        self._failed = False

    def data_received(self, data: bytes) -> None:
        place = 0
        while not self._answered and len(data) - place > _PIECE and not self._failed:
            super().data_received(data[place : place + _PIECE])
            place += _PIECE
        if not self._failed:
            super().data_received(data[place:] if place else data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        if self._failed:
            return
        code = data[0].code
        if 100 <= code <= 199 and code != _SWITCHING:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._refuse()
                return
        else:
            self._answered = True
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        # The end of the connection, which follows a refusal, must not pass for its reason.
        if not self._failed:
            self._failed = True
            super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))

    def _refuse(self) -> None:
        self.set_exception(HttpProcessingError(code=400, message="too many interim answers"))
        if self.transport is not None:
            # Not closed: a TLS connection that is being closed goes on reading what the other side sends.
            self.transport.abort()


class BoundedConnector(aiohttp.TCPConnector):
    """A connector whose connections are :class:`BoundedHandler`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        loop = self._loop

        def make() -> ResponseHandler:
            return BoundedHandler(loop)

        self._factory = functools.partial(make)
