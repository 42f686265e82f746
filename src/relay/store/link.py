"""Connections to PostgreSQL that give up on a server which neither answers nor hangs up: frozen, or cut off.

The server's own time-outs cannot help there, and TCP notices nothing while the other kernel acknowledges.
"""

from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

RV = TypeVar("RV")

STATEMENT_SECONDS: Final = 5
"""After this long the server itself gives a statement up."""
ANSWER_SECONDS: Final = 6.0
_LOOK_SECONDS: Final = 0.1


class GivenUp(psycopg.OperationalError):
    """The server did not answer in time; whether it has done what it was asked is not known."""


class PatientConnection(psycopg.Connection[Any]):
    """Waits at most :data:`ANSWER_SECONDS` for the answer to anything; then :class:`GivenUp`, and it is closed.

    What the server makes of the statement is not known then, so nothing more can be asked over the same connection.
    """

    def wait(self, gen: PQGen[RV], interval: float = _LOOK_SECONDS, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
                raise GivenUp("the server does not answer") from error
            raise


class PatientAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for readers."""

    async def wait(self, gen: PQGen[RV], interval: float = _LOOK_SECONDS, timeout: float | None = None) -> RV:  # noqa: ASYNC109 - psycopg's own signature
        try:
            return await super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self.close()
                raise GivenUp("the server does not answer") from error
            raise
