"""Every place where an envelope stands. A binary column that is not listed here fails a test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, LargeBinary, Table, and_, bindparam, select, tuple_, update

from relay.crypto.envelope import EnvelopeError, sealed_with
from relay.store.query import Query
from relay.store.tables import envelopes, metadata, peppers

FERNET_PURPOSES: Final = frozenset({"connection"})
"""The purposes whose envelopes may be Fernet tokens: what was sealed before there were envelopes is tokens of accounts.

No other purpose opens them, since a token is not bound to its place and could be moved.
"""


@dataclass(frozen=True, slots=True)
class Sealing:
    """An envelope by its place: the row's key, what it is bound to, and the key-encryption key that it names."""

    key: tuple[str, ...]
    workspace: str
    purpose: str
    record: str
    kek: str


class Place:
    """A column of envelopes: how to walk it in bounded steps, and how to replace one that has not changed.

    ``bound`` tells workspace, purpose and record of a row, given its columns by name. Without a ``kek`` column the
    envelope itself says which key sealed it.
    """

    def __init__(
        self,
        table: Table,
        body: str,
        *,
        key: tuple[str, ...],
        more: tuple[str, ...] = (),
        kek: str | None = None,
        bound: Callable[[dict[str, str]], tuple[str, str, str]],
    ) -> None:
        self.table: Final = table
        self.body: Final = table.c[body]
        self._names = (*key, *more)
        self._width = len(key)
        self._kek = kek
        self._bound = bound
        keys = [table.c[name] for name in key]
        columns = [*keys, *(table.c[name] for name in more), table.c[kek] if kek else self.body]
        after: Any = tuple_(*keys) > tuple_(*(bindparam(f"after_{number}") for number in range(len(keys))))
        self._page = select(*columns).where(after).order_by(*keys).limit(bindparam("page"))
        self._these = and_(*(column == bindparam(f"key_{number}") for number, column in enumerate(keys)))
        values: dict[str, Any] = {body: bindparam("new"), **({kek: bindparam("sealed_by")} if kek else {})}
        self._replace = Query(update(table).where(self._these, self.body == bindparam("before")).values(values))

    def page(self, after: tuple[str, ...] | None, size: int) -> Any:
        """Return the statement for the next rows; None begins. Nothing sorts before the empty text."""
        start = after if after is not None else ("",) * self._width
        return self._page.params(page=size, **{f"after_{number}": value for number, value in enumerate(start)})

    def read(self, row: Any) -> Sealing:
        """Return what a row of :meth:`page` says."""
        values = dict(zip(self._names, row[:-1], strict=True))
        kek = str(row[-1]) if self._kek is not None else _named(bytes(row[-1]))
        return Sealing(tuple(row[: self._width]), *self._bound(values), kek)

    def bodies(self, keys: list[tuple[str, ...]]) -> Any:
        """Return the statement for keys and envelopes of these rows."""
        columns: list[Column[Any]] = [self.table.c[name] for name in self._names[: self._width]]
        found: Any = tuple_(*columns).in_(keys)
        return select(*columns, self.body).where(found)

    def replacement(self) -> Query:
        """Return the change that :meth:`changes` gives the parameters of; it touches no row that changed meanwhile."""
        return self._replace

    def changes(self, sealing: Sealing, before: bytes, new: bytes) -> dict[str, Any]:
        """Return the parameters by which an envelope is replaced, if it is still what it was."""
        named = {"sealed_by": sealed_with(new)} if self._kek is not None else {}
        return {
            **{f"key_{number}": value for number, value in enumerate(sealing.key)},
            "before": before,
            "new": new,
            **named,
        }


def _named(body: bytes) -> str:
    try:
        return sealed_with(body)
    except EnvelopeError:
        return ""


PLACES: Final = (
    Place(
        envelopes,
        "body",
        key=("purpose", "record_id"),
        more=("workspace_id",),
        kek="kek_id",
        bound=lambda row: (row["workspace_id"], row["purpose"], row["record_id"]),
    ),
    Place(peppers, "envelope", key=("id",), bound=lambda row: ("", "pepper", row["id"])),
)


def unregistered() -> list[str]:
    """Return the binary columns that rotation does not know: none, or a value would be lost with an old key."""
    known = {place.body for place in PLACES}
    return [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, LargeBinary) and column not in known
    ]
