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

    @cached_property
    def sqlite(self) -> "Compiled":
        """The statement for ``sqlite3``, with parameters as ``:name``."""
        from sqlalchemy.dialects import sqlite

        return self._compiled(sqlite.dialect(paramstyle="named"))

    @cached_property
    def postgres(self) -> "Compiled":
        """The statement for psycopg, with parameters as ``%(name)s``."""
        from sqlalchemy.dialects import postgresql  # not at the top: a process on SQLite never needs it

        return self._compiled(postgresql.dialect(paramstyle="pyformat"))  # type: ignore[no-untyped-call]

    def _compiled(self, dialect: Any) -> "Compiled":
        compiled = self._statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        # Dialects name a statement's own constants differently, so each form keeps its own.
        constants = {name: bind.value for bind, name in compiled.bind_names.items() if not bind.required}
        return Compiled(str(compiled), constants)


class Compiled:
    """A statement for one driver: its text, and the constants that stand in it."""

    __slots__ = ("_constants", "text")

    def __init__(self, text: str, constants: Mapping[str, Any]) -> None:
        self.text = text
        self._constants = constants

    def bound(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters together with the statement's constants."""
        return {**self._constants, **params} if self._constants else params
