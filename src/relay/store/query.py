"""Statements that are compiled once for a dialect and then run without SQLAlchemy's per-execution cost."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import Executable

_SQLITE: Final = sqlite.dialect(paramstyle="qmark")
_POSTGRES: Final = postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]


class Query:
    """A SQLAlchemy Core statement in the two forms that the drivers take.

    Parameters are the statement's ``bindparam`` names. Columns are TEXT, BIGINT or binary only, for which the
    drivers need no conversion; that is what makes it right to go round SQLAlchemy's type layer here.
    """

    __slots__ = ("_defaults", "_names", "_pg_defaults", "postgres", "sqlite")

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_SQLITE)  # type: ignore[attr-defined]
        self.sqlite: str = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._defaults: dict[str, Any] = dict(compiled.params)
        other = statement.compile(dialect=_POSTGRES)  # type: ignore[attr-defined]
        self.postgres: str = str(other)
        self._pg_defaults: dict[str, Any] = dict(other.params)

    def positional(self, params: Mapping[str, Any]) -> Sequence[Any]:
        """Return the parameters in the order of SQLite's question marks."""
        defaults = self._defaults
        return [params[name] if name in params else defaults[name] for name in self._names]

    def named(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters by name, for psycopg."""
        return {**self._pg_defaults, **params}
