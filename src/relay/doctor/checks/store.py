"""The database, what is shared beside it, and the record."""

from typing import Final

from relay.core.clock import MICROSECONDS, MINUTE
from relay.doctor.check import Unseen, some
from relay.doctor.facts import DatabaseState, Facts
from relay.doctor.links import links

CLOCK_SECONDS: Final = 2.0
_FUTURE: Final = 5 * MICROSECONDS
_UNSIGNED: Final = 10 * MINUTE


def answers(facts: Facts) -> str | None:
    """The database answers."""
    found = facts.database_seen
    if isinstance(found, DatabaseState):
        return None
    facts.settings  # noqa: B018 - where the settings are refused nobody knows which database
    return found


def schema(facts: Facts) -> str | None:
    """The schema is this version's."""
    found = facts.database
    if found.schema == "current" or (found.schema == "none" and not found.installed):
        return None
    if found.schema == "newer":
        return f"the schema is {found.revision}, from a newer Relay"
    return f"the schema is {found.revision}, from an older Relay"


def installed(facts: Facts) -> str | None:
    """There is an installation."""
    return None if facts.database.installed else "there is no installation where the settings point"


def keys_match(facts: Facts) -> str | None:
    """The root keys are those that the database was set up with."""
    wrong = facts.store.wrong_keys
    return "; ".join(wrong) or None


def shared_state(facts: Facts) -> str | None:
    """Processes that share a database share their limits."""
    if facts.settings.redis_url is not None:
        return None
    processes = facts.postgres.processes
    if processes < 2:
        return None
    return f"{processes} processes use this database and REDIS_URL is not set: each counts rate limits for itself"


def redis_answers(facts: Facts) -> str | None:
    """Redis, where it counts the limits, answers."""
    if facts.settings.redis_url is None:
        raise Unseen("REDIS_URL is not set")
    return None if facts.redis_answers else "Redis does not answer: changes get 503 until it does"


def redis_guarded(facts: Facts) -> str | None:
    """Redis beyond this machine asks for a password."""
    if facts.settings.redis_url is None:
        raise Unseen("REDIS_URL is not set")
    if any(link.setting == "REDIS_URL" and link.remote and not link.password for link in links(facts.settings)):
        return "REDIS_URL names another machine and holds no password"
    return None


def links_encrypted(facts: Facts) -> str | None:
    """Connections that leave this machine are encrypted."""
    clear = [link.setting for link in links(facts.settings) if link.remote and not link.encrypted]
    return f"unencrypted beyond this machine: {some(clear)}" if clear else None


def database_role(facts: Facts) -> str | None:
    """Relay's role owns its own database and no more."""
    return "Relay's role in PostgreSQL is a superuser" if facts.postgres.superuser else None


def clock(facts: Facts) -> str | None:
    """The clock is right: the database server's agrees, and the record does not come from the future."""
    if not isinstance(facts.postgres_seen, str):
        ahead = facts.postgres.clock_ahead
        if abs(ahead) > CLOCK_SECONDS:
            return f"the database server's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this one"
    last = facts.store.audit.last_event_at
    if last is not None and last > facts.at + _FUTURE:
        return f"the newest audit event is {(last - facts.at) // MICROSECONDS} s in the future: this clock was set back"
    return None


def audit_verifies(facts: Facts) -> str | None:
    """The audit log holds."""
    return facts.store.audit.broken


def audit_signed(facts: Facts) -> str | None:
    """Heads are signed soon after what they cover, so that a rewriting of the log would show."""
    since = facts.store.audit.first_unsigned_at
    if since is None or facts.at - since <= _UNSIGNED:
        return None
    return f"events wait for a signed head since {(facts.at - since) // MINUTE} minutes"
