"""Statements that are compiled once for a dialect and then run without SQLAlchemy's per-execution cost."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sqlalchemy.sql.base import Executable


class Query:
    """A SQLAlchemy Core statement in the two forms that the drivers take, each compiled when it is first wanted.

    Parameters are the statement's ``bindparam`` names. Columns are TEXT, BIGINT or binary only, for which the
    drivers need no conversion; that is what makes it right to go round SQLAlchemy's type layer here.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._constants: dict[str, Any] = {}

    @cached_property
    def sqlite(self) -> str:
        """The statement for ``sqlite3``, with parameters as ``:name``."""
        from sqlalchemy.dialects import sqlite

        return self._compiled(sqlite.dialect(paramstyle="named"))

    @cached_property
    def postgres(self) -> str:
        """The statement for psycopg, with parameters as ``%(name)s``."""
        from sqlalchemy.dialects import postgresql  # not at the top: a process on SQLite never needs it

        return self._compiled(postgresql.dialect(paramstyle="pyformat"))  # type: ignore[no-untyped-call]

    def bound(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters with the constants that stand in the statement. To be called after it was compiled."""
        return {**self._constants, **params} if self._constants else params

    def _compiled(self, dialect: Any) -> str:
        compiled = self._statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self._constants = {name: bind.value for bind, name in compiled.bind_names.items() if not bind.required}
        return str(compiled)
