"""A sound installation as the doctor's facts, to be spoilt one fact at a time."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from relay.core.clock import DAY, HOUR, MINUTE
from relay.core.principal import SCOPES
from relay.doctor.checks.people import FIRST_KEY
from relay.doctor.facts import (
    Audit,
    Backups,
    DatabaseState,
    Entry,
    Facts,
    Folder,
    Key,
    Machine,
    PostgresServer,
    SecretUse,
    Store,
)
from relay.settings import load_settings
from relay.settings.secret_text import generate_kek, generate_secret_key, generate_webhook_secret
from relay.store.schema import HEAD

AT = 2_000_000_000_000_000
PASSWORD = "Xb7qLw92ZrTn4kVd"  # pragma: allowlist secret
DATA = Path("/var/lib/relay")
SOUND = {
    "RELAY_DATA_DIR": str(DATA),
    "RELAY_PUBLIC_URL": "https://relay.example.com",
    "TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8",
    "CORS_ORIGINS": "https://app.example.com",
    "EGRESS_ALLOW": "10.1.2.0/24:443,api.example.com,8.8.8.0/24",
    "BACKUP_FOLDER": "/var/backups/relay",
    "METRICS_TOKEN": generate_secret_key(),
    "SECRET_KEY": generate_secret_key(),
    "OAUTH_ENCRYPTION_KEY": generate_kek(),
    "WEBHOOK_SIGNING_SECRET": generate_webhook_secret(),
    "SECRETS_FROM_ENVIRONMENT": "accepted",
    "OPENAI_API_KEY": generate_secret_key(),
    "CHAT_API_KEY": generate_secret_key(),
    "AI_LINK_HOSTS": "docs.example.com",
    "DATABASE_URL": f"postgresql://relay:{PASSWORD}@db.example.com/relay?sslmode=verify-full",
    "REDIS_URL": f"rediss://relay:{PASSWORD}@redis.example.com/0",
}
EMBEDDED = {"DATABASE_URL": "", "REDIS_URL": ""}

PERSON = Key("key_p", "person", "default", frozenset(SCOPES), "me", AT - DAY, AT + 80 * DAY, AT)
AGENT = Key("key_a", "agent", "default", frozenset({"actions:execute"}), "mailer", AT - DAY, AT + 80 * DAY, AT)
FIRST = replace(PERSON, id="key_f", name=FIRST_KEY, created_at=AT - 6 * DAY)
STORE = Store(
    keys=(PERSON, AGENT, FIRST),
    audit=Audit(size=9, last_event_at=AT - MINUTE, first_unsigned_at=AT - MINUTE),
    secrets=(SecretUse("SECRET_KEY", AT - 89 * DAY), SecretUse("pepper", AT - HOUR)),
)
MACHINE = Machine(
    today=date(2026, 11, 1),
    python=(3, 11),
    sqlite=(3, 51, 3),
    openssl=(3, 0),
    free_bytes=10 * 1024**3,
    free_files=0.5,
)
FOLDER = Folder(DATA, 0o700, 1000, 1000, (Entry("keys", 0o700, 1000), Entry("relay.db", 0o600, 1000)))
BACKUPS = Backups(exists=True, newest_age=3600.0, newest_size=100)
POSTGRES = PostgresServer(version=180_004, clock_ahead=0.2, superuser=False, processes=2)


def sound(**changed: Any) -> Facts:
    """Return the facts of an installation at which every check passes, with some of them replaced.

    Names in capitals are settings, the others are facts.
    """
    env = {**SOUND, **{name: value for name, value in changed.items() if name.isupper()}}
    facts = Facts(
        at=AT,
        problems=(),
        machine=MACHINE,
        settings_seen=load_settings(env, Path("/")),
        redis_answers=True,
        folder_seen=FOLDER,
        backups_seen=BACKUPS,
        database_seen=DatabaseState("current", installed=True, revision=HEAD),
        postgres_seen=POSTGRES,
        store_seen=STORE,
    )
    return replace(facts, **{name: value for name, value in changed.items() if not name.isupper()})
