"""What every table is made of.

Only TEXT, BIGINT and binary columns are used, so that a row means the same on SQLite and PostgreSQL and statements
need no per-row conversion. Times are whole microseconds since the epoch (BIGINT), states are text, secrets are
envelopes.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, Text

metadata: Final = MetaData()

# On SQLite INTEGER, unlike BIGINT, names the row itself; and a table of text keys (``sqlite_with_rowid=False``) is one
# tree instead of two.
NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")


def text(name: str, *, null: bool = False) -> Column[str]:
    """Return a column of text."""
    return Column(name, Text, nullable=null)


def time(name: str, *, null: bool = False) -> Column[int]:
    """Return a column of a moment, in microseconds since the epoch."""
    return Column(name, BigInteger, nullable=null)


def whole(name: str, *, null: bool = False) -> Column[int]:
    """Return a column of a whole number."""
    return Column(name, BigInteger, nullable=null)
