"""What Relay runs on is still being mended by those who make it."""

from datetime import date
from typing import Final

from relay.doctor.facts import Facts

# Python: PEP 664, 693, 719, 745, 790. PostgreSQL: its versioning policy.
PYTHON_ENDS: Final = {
    (3, 11): date(2027, 10, 31),
    (3, 12): date(2028, 10, 31),
    (3, 13): date(2029, 10, 31),
    (3, 14): date(2030, 10, 31),
}
POSTGRES_ENDS: Final = {
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
OLDEST_POSTGRES: Final = 14
OLDEST_OPENSSL: Final = (3, 0)

# https://sqlite.org/wal.html#walresetbug: two connections that write and checkpoint at the same moment.
_WAL_FIXED: Final = (3, 51, 3)
_WAL_BACKPORTS: Final = {(3, 44): 6, (3, 50): 7}


def python(facts: Facts) -> str | None:
    """Python still gets security fixes."""
    found = facts.machine.python
    end = PYTHON_ENDS.get(found)
    if end is None:
        return None if found > max(PYTHON_ENDS) else f"Python {found[0]}.{found[1]} gets no security fixes any more"
    if facts.machine.today <= end:
        return None
    return f"Python {found[0]}.{found[1]} gets no security fixes since {end}"


def sqlite(facts: Facts) -> str | None:
    """SQLite, where it is the database, has not the bug that can corrupt a file in WAL mode."""
    major, minor, patch = found = facts.machine.sqlite
    if facts.settings.shared_database or found >= _WAL_FIXED or patch >= _WAL_BACKPORTS.get((major, minor), patch + 1):
        return None
    return f"SQLite {major}.{minor}.{patch} has the WAL-reset bug, which can, rarely, corrupt a database"


def postgresql(facts: Facts) -> str | None:
    """The PostgreSQL server is one that Relay supports and that still gets fixes."""
    major = facts.postgres.version // 10_000
    if major < OLDEST_POSTGRES:
        return f"PostgreSQL {major} is older than what Relay supports ({OLDEST_POSTGRES})"
    end = POSTGRES_ENDS.get(major)
    if end is not None and facts.machine.today > end:
        return f"PostgreSQL {major} gets no fixes since {end}"
    return None


def openssl(facts: Facts) -> str | None:
    """The TLS library is one that gets fixes."""
    found = facts.machine.openssl
    return None if found >= OLDEST_OPENSSL else f"OpenSSL {found[0]}.{found[1]} gets no security fixes any more"
