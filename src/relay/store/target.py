"""Which database: parsed once from ``DATABASE_URL``, so that nobody else takes a URL with a password apart."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError


@dataclass(frozen=True, slots=True)
class Target:
    """A database that Relay can use. ``url`` is SQLAlchemy's synchronous form; both texts may hold a password."""

    kind: Literal["sqlite", "postgres"]
    path: Path | None
    url: str = field(repr=False)
    conninfo: str = field(default="", repr=False)
    endpoint: tuple[str, int] | None = None

    @property
    def place(self) -> str:
        """Where the database is, for people: never with a user or a password."""
        if self.endpoint is not None:
            return "{} port {}".format(*self.endpoint)
        return str(self.path) if self.path is not None else "the socket of PostgreSQL"


def parse_target(url: str | None, data_dir: Path) -> Target:
    """Return the target of ``DATABASE_URL``, or the SQLite file in the data folder; ValueError never echoes the URL."""
    if not url:
        return _sqlite(data_dir / "relay.db")
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("DATABASE_URL is no database URL") from None
    scheme = parsed.drivername.partition("+")[0]
    if scheme == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError("DATABASE_URL must name a file: sqlite:////path/to/relay.db")
        return _sqlite(Path(parsed.database))
    if scheme not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must begin with postgresql:// or sqlite://")
    return _postgres(parsed)


def _postgres(parsed: URL) -> Target:
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # not at the top: SQLite never needs it

    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        parts = conninfo_to_dict(plain)
    except ValueError:
        raise ValueError("DATABASE_URL is no PostgreSQL URL") from None
    host, port = str(parts.get("host") or "localhost"), int(parts.get("port") or 5432)
    return Target(
        kind="postgres",
        path=None,
        url=parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False),
        conninfo=make_conninfo(plain),
        endpoint=None if host.startswith("/") else (host, port),
    )


def _sqlite(path: Path) -> Target:
    return Target(kind="sqlite", path=path, url=f"sqlite:///{path}")
