"""Secrets that are put in to be looked for: what they are, in which disguises they may turn up, and where to look."""

import base64
import json
import secrets
import sqlite3
import string
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from tests.process import GatewayProcess

_ALPHABET = string.ascii_letters + string.digits


def canary(prefix: str = "") -> str:
    """Return a secret that occurs nowhere by chance: 40 random letters and digits behind a prefix."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(40))


def disguises(secret: str) -> Iterator[bytes]:
    """Yield how a text may be written: as it is, escaped, in hex, in base64 at each of its three alignments."""
    raw = secret.encode()
    yield from {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode()}
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        # The first and the last characters depend on what stands around it.
        inner = whole[(shift * 8 + 5) // 6 : -2]
        yield from {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}


@dataclass
class Hunt:
    """Secrets by name, and everything that was seen, by where."""

    secrets: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[bytes]] = field(default_factory=dict)

    def put(self, name: str, prefix: str = "") -> str:
        """Return a new secret to be put in somewhere."""
        self.secrets[name] = canary(prefix)
        return self.secrets[name]

    def saw(self, place: str, content: bytes | str) -> None:
        """Keep what is to be searched."""
        self.seen.setdefault(place, []).append(
            content.encode(errors="surrogateescape") if isinstance(content, str) else content
        )

    def found(self, may: frozenset[tuple[str, str]] = frozenset()) -> set[tuple[str, str]]:
        """Return each secret with each place that it was found in; ``may`` are pairs that are meant to be."""
        everything = {place: b"\n".join(contents) for place, contents in self.seen.items()}
        return {
            (name, place)
            for name, secret in self.secrets.items()
            for disguise in disguises(secret)
            for place, content in everything.items()
            if disguise in content and (name, place) not in may
        }

    def look_at_processes(self, gateway: GatewayProcess) -> None:
        """Keep the arguments of the server and its children, and the environments of the children."""
        server = psutil.Process(gateway.pid)
        for process in [server, *server.children(recursive=True)]:
            self.saw("arguments", "\0".join(process.cmdline()))
        for child in server.children(recursive=True):
            self.saw("children's environments", "\0".join(f"{k}={v}" for k, v in child.environ().items()))

    def look_at_output(self, gateway: GatewayProcess) -> None:
        """Keep what the server wrote, in all of its starts, but the first key, which it is meant to show."""
        for path in sorted(gateway.home.glob("serve-*")):
            text = path.read_text()
            self.saw("output", text.replace(gateway.first_key, "") if gateway.first_key else text)

    def look_at_folder(self, folder: Path) -> None:
        """Keep every file of the data folder but the keys and the mail, which are meant to be there."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not {"keys", "mail"} & set(path.relative_to(folder).parts):
                self.saw("data folder", path.read_bytes())

    def look_at_sqlite(self, database: Path, backup: Path) -> None:
        """Keep a copy of the database, as a backup would be made, after its free pages have been written out."""
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(backup),))
        self.saw("backup", backup.read_bytes())

    def look_at_postgres(self, url: str) -> None:
        """Keep every row of every table, as a dump would hold it."""
        with psycopg.connect(url) as connection:
            tables = connection.execute(
                "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            for (table,) in tables:
                for (row,) in connection.execute(f"SELECT t::text FROM {table} t"):
                    self.saw("backup", row)


def broken(gateway: GatewayProcess) -> Any:
    """Take a table away from under a SQLite server, so that what needs it breaks inside."""
    with closing(sqlite3.connect(gateway.data / "relay.db", timeout=30)) as connection:
        connection.execute("ALTER TABLE previews RENAME TO previews_gone")
        connection.commit()
