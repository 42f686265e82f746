"""Every check of `relay doctor` in both states, on facts that differ in one thing."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from relay.core.clock import DAY, MINUTE
from relay.doctor.check import Check, Finding, Unseen, judge_all, some
from relay.doctor.facts import Audit, Backups, DatabaseState, Entry, Facts, Key, SecretUse
from relay.doctor.registry import CHECKS, names
from tests.doctor_kit import (
    AGENT,
    AT,
    BACKUPS,
    DATA,
    EMBEDDED,
    FIRST,
    FOLDER,
    MACHINE,
    PASSWORD,
    PERSON,
    POSTGRES,
    STORE,
    sound,
)

PRICED = {"AI_MODEL": "own", "AI_PRICES": "own=1/10"}
LOCAL = {"RELAY_ENV": "local", "RELAY_PUBLIC_URL": "", "TRUSTED_PROXIES": ""}


def with_keys(*keys: Key) -> Facts:
    return sound(store_seen=replace(STORE, keys=keys))


def with_audit(**changed: object) -> Facts:
    return sound(store_seen=replace(STORE, audit=replace(STORE.audit, **changed)))


def machine(**changed: object) -> Facts:
    return sound(machine=replace(MACHINE, **changed))


def entries(*found: Entry, **changed: object) -> Facts:
    return sound(folder_seen=replace(FOLDER, entries=found, **changed))


def backups(**changed: object) -> Facts:
    return sound(backups_seen=replace(BACKUPS, **changed))


# By check: facts with which it does not pass, and a part of what it says.
BAD: dict[str, list[tuple[Facts, str]]] = {
    "settings": [(sound(problems=("RELAY_PORT: must be a number",)), "RELAY_PORT")],
    "unknown-settings": [(sound(AI_MODLE="gpt-5", OPENAI_APIKEY=PASSWORD), "AI_MODLE, did you mean AI_MODEL?")],
    "environment": [(sound(RELAY_ENV="local"), "local"), (sound(RELAY_ENV="test"), "test")],
    "dev-auth-mode": [(sound(**LOCAL, DEV_AUTH_MODE="true"), "DEV_AUTH_MODE")],
    "unsigned-webhooks": [(sound(**LOCAL, WEBHOOK_ALLOW_UNSIGNED="true"), "WEBHOOK_ALLOW_UNSIGNED")],
    "chat-pilot-mode": [(sound(**LOCAL, CHAT_PILOT_MODE="true"), "CHAT_PILOT_MODE")],
    "chat-key-scopes": [
        (sound(CHAT_SCOPES="chat actions:preview actions:execute", CHAT_WORKSPACE="shop"), "principal of shop")
    ],
    "model-links": [
        (sound(OPENAI_BASE_URL="http://10.1.2.3:8000/v1"), "OPENAI_BASE_URL"),
        (sound(ANTHROPIC_BASE_URL="http://vllm:8000", GOOGLE_BASE_URL="http://localhost.example.com"), "GOOGLE_BASE"),
    ],
    "model-budgets": [
        (sound(AI_DAILY_BUDGET_USD="0"), "nothing can be asked: AI_DAILY_BUDGET_USD is below the"),
        # 2,048 tokens out at 10 and 4,000 in at 1 dollar for a million.
        (sound(CHAT_SESSION_BUDGET_USD="0.0244", **PRICED), "the 0.0245 US dollars that one question to own may cost"),
        (sound(AI_DAILY_BUDGET_USD="0.0244", **PRICED), "AI_DAILY_BUDGET_USD is below"),
        (sound(AI_DAILY_BUDGET_USD="0.05", AI_MAX_OUTPUT_TOKENS="5000", **PRICED), "0.0540 US dollars"),
        (sound(CHAT_SESSION_BUDGET_USD="0", AI_PRICES="other=0/0"), "CHAT_SESSION_BUDGET_USD"),
        (sound(CHAT_SESSION_BUDGET_USD="0", AI_MODEL="own", AI_PRICES="own=0/0.01"), "CHAT_SESSION_BUDGET_USD"),
        (sound(AI_DAILY_BUDGET_USD="0", AI_MODEL="own", AI_FALLBACK_MODEL="gpt-5", AI_PRICES="own=0/0"), "gpt-5 may"),
    ],
    "model-budget-sizes": [
        (sound(AI_DAILY_BUDGET_USD="201"), "AI_DAILY_BUDGET_USD (default 2)"),
        (sound(CHAT_SESSION_BUDGET_USD="50.01"), "CHAT_SESSION_BUDGET_USD (default 0.50)"),
    ],
    "link-hosts": [(sound(AI_LINK_HOSTS="docs.example.com,*.example.org"), "holds *.example.org")],
    "model-record": [(sound(AI_RECORD="true"), "kept for 30 days")],
    "tls": [
        (sound(RELAY_PUBLIC_URL="http://relay.example.com"), "in the clear"),
        (sound(RELAY_PUBLIC_URL="", RELAY_HOST="0.0.0.0"), "0.0.0.0"),
        (sound(RELAY_PUBLIC_URL="", RELAY_HOST="::"), "beyond this machine"),
        (sound(RELAY_PUBLIC_URL="http://localhost:8000", RELAY_HOST="192.0.2.1"), "not https"),
    ],
    "trusted-proxies": [
        (sound(TRUSTED_PROXIES=""), "TRUSTED_PROXIES is not set"),
        (sound(TRUSTED_PROXIES="0.0.0.0/1,128.0.0.0/1"), "0.0.0.0/1"),
        (sound(TRUSTED_PROXIES="127.0.0.1,8.0.0.0/8"), "8.0.0.0/8"),
        (sound(TRUSTED_PROXIES="2000::/3"), "2000::/3"),
    ],
    "cors": [
        (sound(CORS_ORIGINS="http://app.example.com"), "http://app.example.com"),
        (sound(CORS_ORIGINS="https://app.example.com,https://localhost:3000"), "localhost"),
        (sound(CORS_ORIGINS="http://127.0.0.1:3000"), "127.0.0.1"),
    ],
    "limits": [(sound(RATE_LIMIT_MODE="observe"), "observe")],
    "limit-values": [
        (sound(RATE_LIMIT_GLOBAL_PER_MINUTE="1000000"), "RATE_LIMIT_GLOBAL_PER_MINUTE"),
        (sound(RATE_LIMIT_CREDENTIALS_PER_5_MINUTES="2001"), "RATE_LIMIT_CREDENTIALS_PER_5_MINUTES"),
    ],
    "egress": [
        (sound(EGRESS_ALLOW="0.0.0.0/0"), "0.0.0.0/0"),
        (sound(EGRESS_ALLOW="10.0.0.0/8:443"), "10.0.0.0/8"),
        (sound(EGRESS_ALLOW="fd00::/8"), "fd00::/8"),
        (sound(EGRESS_ALLOW="metadata.google.internal"), "metadata"),
        (sound(EGRESS_ALLOW="169.254.169.254"), "never opened"),
    ],
    "egress-ports": [
        (sound(EGRESS_ALLOW="10.1.2.0/24"), "10.1.2.0/24"),
        (sound(EGRESS_ALLOW="localhost"), "localhost"),
        (sound(EGRESS_ALLOW="[fd00:1:2::]/48".replace("[", "").replace("]", "")), "fd00:1:2::/48"),
    ],
    "log-level": [(sound(LOG_LEVEL="debug"), "debug")],
    "metrics-token": [
        (sound(METRICS_TOKEN=""), "METRICS_TOKEN"),
        (sound(METRICS_TOKEN="", RELAY_PUBLIC_URL="", RELAY_HOST="0.0.0.0"), "METRICS_TOKEN"),
    ],
    "secret-sources": [(sound(SECRETS_FROM_ENVIRONMENT=""), "OAUTH_ENCRYPTION_KEY")],
    "secret-ages": [
        (sound(SECRET_PERIOD_DAYS="80"), "SECRET_KEY (89 days)"),
        (sound(store_seen=replace(STORE, secrets=(SecretUse("SECRET_KEY", AT - 91 * DAY),))), "SECRET_KEY (91 days)"),
    ],
    "secret-strength": [
        (sound(REDIS_URL="rediss://relay:Xb7qLw9@redis.example.com/0"), "REDIS_URL (shorter than 12"),
        (sound(REDIS_URL="rediss://relay:aabbaabbaabbaabb@redis.example.com/0"), "REDIS_URL (a few characters"),
        (sound(**dict.fromkeys(("SECRET_KEY", "METRICS_TOKEN"), "q3V7yTn0b9xKcZ2LwPd8RmJf5hGsA1uE")), "METRICS_TOKEN"),
    ],
    "webhook-scheme": [
        (sound(WEBHOOK_SIGNING_SECRET="q3V7yTn0b9xKcZ2LwPd8RmJf5hGsA1uE", WEBHOOK_LEGACY_UNTIL="2999-01-01"), "legacy")
    ],
    "data-folder": [
        (sound(folder_seen=replace(FOLDER, mode=0o755)), "0755"),
        (sound(folder_seen=replace(FOLDER, owner=7)), "user 7"),
        (entries(Entry("keys/secret_key", 0o640, 1000)), "keys/secret_key (0640)"),
        (entries(Entry("relay.db", 0o604, 1000)), "relay.db (0604)"),
        (entries(Entry("relay.db-wal", 0o600, 0)), "of another owner: relay.db-wal"),
        (entries(*(Entry(f"relay-{number}.bak", 0o644, 1000) for number in range(5))), "and 2 more"),
    ],
    "disk-space": [(machine(free_bytes=511 * 1024**2), "511 MiB"), (machine(free_files=0.009), "1 %")],
    "backups": [
        (sound(BACKUP_FOLDER="", backups_seen="not named"), "BACKUP_FOLDER is not set"),
        (sound(backups_seen=Backups(exists=False)), "not a folder"),
        (sound(BACKUP_FOLDER=f"{DATA}/backups"), "lies in the data folder"),
        (sound(backups_seen=Backups(exists=True)), "holds no backup"),
        (backups(newest_size=0), "holds no backup"),
        (backups(newest_age=27 * 3600.0), "27 hours old"),
        (backups(newest_age=3 * 3600.0, exposed=("relay.dump",)), "relay.dump"),
    ],
    "database": [(sound(database_seen="db port 5432 does not answer"), "db port 5432")],
    "schema": [
        (sound(database_seen=DatabaseState("old", installed=True, revision="0001")), "0001, from an older"),
        (sound(database_seen=DatabaseState("newer", installed=True, revision="9999")), "9999, from a newer"),
    ],
    "installation": [(sound(database_seen=DatabaseState("none", installed=False)), "no installation")],
    "root-keys": [(sound(store_seen=replace(STORE, wrong_keys=("SECRET_KEY is not the database's",))), "SECRET_KEY")],
    "database-role": [(sound(postgres_seen=replace(POSTGRES, superuser=True)), "superuser")],
    "shared-limits": [(sound(REDIS_URL="", redis_answers=None), "2 processes")],
    "redis": [(sound(redis_answers=False), "does not answer"), (sound(redis_answers=None), "does not answer")],
    "redis-password": [(sound(REDIS_URL="rediss://redis.example.com/0"), "no password")],
    "encrypted-links": [
        (sound(REDIS_URL=f"redis://relay:{PASSWORD}@redis.example.com/0"), "REDIS_URL"),
        (sound(DATABASE_URL=f"postgresql://relay:{PASSWORD}@db.example.com/relay"), "DATABASE_URL"),
        (sound(DATABASE_URL=f"postgresql://relay:{PASSWORD}@db.example.com/relay?sslmode=prefer"), "DATABASE_URL"),
        (sound(DATABASE_URL=f"postgresql://relay:{PASSWORD}@/relay?host=db.example.com"), "DATABASE_URL"),
    ],
    "clock": [
        (sound(postgres_seen=replace(POSTGRES, clock_ahead=2.5)), "2.5 s ahead of"),
        (sound(postgres_seen=replace(POSTGRES, clock_ahead=-60.0)), "60.0 s behind"),
        (with_audit(last_event_at=AT + MINUTE), "60 s in the future"),
    ],
    "audit-log": [(with_audit(broken="event 4: was changed"), "event 4: was changed")],
    "audit-heads": [(with_audit(first_unsigned_at=AT - 11 * MINUTE), "11 minutes")],
    "approvers": [
        (with_keys(AGENT), "default"),
        (with_keys(AGENT, replace(PERSON, workspace="other")), "default"),
        (with_keys(AGENT, replace(PERSON, kind="agent")), "default"),
        (with_keys(AGENT, replace(PERSON, scopes=frozenset({"audit:read"}))), "default"),
    ],
    "agent-scopes": [
        (with_keys(PERSON, replace(PERSON, id="key_x", kind="agent")), "key_x (every scope)"),
        (with_keys(PERSON, replace(AGENT, scopes=frozenset({"policies:manage"}))), "policies:manage"),
    ],
    "key-ends": [(with_keys(replace(PERSON, expires_at=AT + 181 * DAY)), "key_p")],
    "first-key": [(with_keys(replace(FIRST, created_at=AT - 8 * DAY)), "key_f")],
    "webhook-endpoints": [(sound(store_seen=replace(STORE, disabled_endpoints=("ep_1",))), "ep_1")],
    "python": [
        (machine(python=(3, 10)), "3.10"),
        (machine(today=date(2027, 11, 1)), "3.11 gets no security fixes since 2027-10-31"),
    ],
    "sqlite": [
        (replace(sound(**EMBEDDED), machine=replace(MACHINE, sqlite=version)), "WAL-reset")
        for version in ((3, 40, 1), (3, 44, 5), (3, 50, 6), (3, 51, 2), (3, 49, 9))
    ],
    "postgresql": [
        (sound(postgres_seen=replace(POSTGRES, version=130_010)), "older than"),
        (
            sound(postgres_seen=replace(POSTGRES, version=140_010), machine=replace(MACHINE, today=date(2026, 11, 13))),
            "14",
        ),
    ],
    "openssl": [(machine(openssl=(1, 1)), "1.1")],
}

# By check: facts with which it passes although one might think otherwise. With `sound()` all of them pass.
GOOD: dict[str, list[Facts]] = {
    "environment": [sound(RELAY_ENV="")],
    "tls": [
        sound(RELAY_PUBLIC_URL="", TRUSTED_PROXIES=""),
        sound(RELAY_PUBLIC_URL="http://localhost:9000"),
        sound(RELAY_HOST="0.0.0.0"),
    ],
    "trusted-proxies": [
        sound(RELAY_PUBLIC_URL="", TRUSTED_PROXIES=""),
        sound(TRUSTED_PROXIES="100.64.0.0/10,fd00::/8"),
        sound(TRUSTED_PROXIES="198.41.128.0/17"),
    ],
    "chat-key-scopes": [sound(CHAT_API_KEY="", CHAT_SCOPES="chat actions:execute")],
    "model-links": [
        sound(OPENAI_BASE_URL="http://127.0.0.1:11434/v1", ANTHROPIC_BASE_URL="https://models.example.com")
    ],
    "model-budgets": [
        sound(AI_DAILY_BUDGET_USD="0", AI_MODEL="own", AI_PRICES="own=0/0"),
        sound(AI_DAILY_BUDGET_USD="0.0245", CHAT_SESSION_BUDGET_USD="0.0245", **PRICED),
    ],
    "model-budget-sizes": [sound(AI_DAILY_BUDGET_USD="200", CHAT_SESSION_BUDGET_USD="50")],
    "link-hosts": [sound(AI_LINK_HOSTS="")],
    "model-record": [sound(AI_RECORD="true", RELAY_ENV="local")],
    "cors": [sound(CORS_ORIGINS="none"), sound(RELAY_ENV="local", CORS_ORIGINS="")],
    "limit-values": [sound(RATE_LIMIT_GLOBAL_PER_MINUTE="10000")],
    "egress": [sound(EGRESS_ALLOW=""), sound(EGRESS_ALLOW="10.1.0.0/16:443")],
    "egress-ports": [sound(EGRESS_ALLOW="[fd00::1]:443,localhost:8080,8.8.8.0/24")],
    "log-level": [sound(LOG_LEVEL="debug", RELAY_ENV="local")],
    "metrics-token": [
        sound(METRICS_TOKEN="", RELAY_PUBLIC_URL="", TRUSTED_PROXIES=""),
        sound(METRICS_TOKEN="", TELEMETRY_ENABLED="false"),
    ],
    "unknown-settings": [sound(PATH="/bin", TEST_DATABASE_URL="postgresql://db", OPENAI_API_KEY_2=PASSWORD)],
    "secret-sources": [sound(SECRETS_FROM_ENVIRONMENT="", RELAY_ENV="local")],
    "secret-ages": [sound(store_seen=replace(STORE, secrets=(SecretUse("pepper", AT - 90 * DAY),)))],
    "secret-strength": [sound(**EMBEDDED), sound(REDIS_URL="redis://localhost")],
    "webhook-scheme": [sound(WEBHOOK_SIGNING_SECRET="")],
    "data-folder": [sound(folder_seen=replace(FOLDER, us=0))],
    "disk-space": [machine(free_bytes=512 * 1024**2)],
    "backups": [sound(BACKUP_MAX_AGE_HOURS="1"), backups(newest_age=26 * 3600.0)],
    "schema": [sound(database_seen=DatabaseState("none", installed=False))],
    "shared-limits": [
        sound(REDIS_URL="", postgres_seen=replace(POSTGRES, processes=1)),
        sound(REDIS_URL="", postgres_seen=replace(POSTGRES, processes=0)),
    ],
    "encrypted-links": [
        sound(DATABASE_URL=f"postgresql://relay:{PASSWORD}@/relay?host=/run/postgresql", REDIS_URL="redis://[::1]"),
        sound(DATABASE_URL=f"postgresql://relay:{PASSWORD}@db/relay?sslmode=require"),
        sound(**EMBEDDED),
    ],
    "clock": [sound(postgres_seen="it is SQLite"), with_audit(last_event_at=None)],
    "audit-heads": [with_audit(first_unsigned_at=None)],
    "approvers": [with_keys(), with_keys(PERSON), with_keys(replace(AGENT, scopes=frozenset({"actions:preview"})))],
    "key-ends": [with_keys(replace(PERSON, expires_at=AT + 180 * DAY))],
    "first-key": [
        with_keys(replace(FIRST, created_at=AT - 90 * DAY, last_used_at=None)),
        with_keys(replace(PERSON, created_at=AT - 90 * DAY)),
    ],
    "python": [machine(python=(3, 15), today=date(2031, 1, 1)), machine(today=date(2027, 10, 31))],
    "sqlite": [
        *(
            replace(sound(**EMBEDDED), machine=replace(MACHINE, sqlite=version))
            for version in ((3, 44, 6), (3, 50, 7), (3, 53, 0))
        ),
        machine(sqlite=(3, 40, 1)),
    ],
    "postgresql": [sound(postgres_seen=replace(POSTGRES, version=190_000))],
    "redis-password": [sound(REDIS_URL="redis://127.0.0.1"), sound(REDIS_URL="unix:///run/redis.sock")],
}


def finding(name: str, facts: Facts) -> Finding:
    return next(found for found in judge_all(CHECKS, facts).findings if found.name == name)


def test_every_check_is_tested_in_both_states() -> None:
    assert set(BAD) == set(names()), "a check without a state in which it does not pass, or the other way round"
    assert set(GOOD) <= set(names())
    assert all(BAD.values())


def test_with_a_sound_installation_every_check_passes() -> None:
    report = judge_all(CHECKS, sound())
    assert [(found.name, found.status, found.detail) for found in report.findings if found.status != "pass"] == []
    assert report.ok() and report.ok(strict=True)


@pytest.mark.parametrize(
    ("name", "facts", "says"),
    [(name, facts, says) for name, cases in BAD.items() for facts, says in cases],
    ids=[f"{name}-{number}" for name, cases in BAD.items() for number in range(len(cases))],
)
def test_it_does_not_pass(name: str, facts: Facts, says: str) -> None:
    found = finding(name, facts)
    severity = next(check.severity for check in CHECKS if check.name == name)
    assert found.status == severity and says in found.detail and found.fix
    report = judge_all(CHECKS, facts)
    assert not report.ok(strict=True) and (severity == "warn" or not report.ok())


@pytest.mark.parametrize(
    ("name", "facts"),
    [(name, facts) for name, cases in GOOD.items() for facts in cases],
    ids=[f"{name}-{number}" for name, cases in GOOD.items() for number in range(len(cases))],
)
def test_it_passes(name: str, facts: Facts) -> None:
    found = finding(name, facts)
    assert (found.status, found.detail) == ("pass", "")


def test_a_warning_alone_is_no_failure() -> None:
    report = judge_all(CHECKS, sound(LOG_LEVEL="debug"))
    assert report.ok() and not report.ok(strict=True) and report.count("warn") == 1


# What cannot be looked at.


def test_refused_settings_fail_and_leave_out_what_needs_them() -> None:
    refused = Facts(AT, ("RELAY_PORT: must be a whole number",), MACHINE, "the settings are refused")
    report = judge_all(CHECKS, refused)
    assert not report.ok()
    assert {found.name for found in report.findings if found.status == "fail"} == {"settings"}
    assert finding("tls", refused).detail == "the settings are refused"
    assert finding("python", refused).status == "pass"


@pytest.mark.parametrize("check", ["model-budgets", "model-budget-sizes"])
def test_budgets_of_models_are_not_judged_without_a_model(check: str) -> None:
    without = finding(check, sound(OPENAI_API_KEY="", AI_DAILY_BUDGET_USD="0"))
    assert (without.status, without.detail) == ("skip", "no model is configured")


def test_budgets_are_not_judged_by_a_model_that_start_up_refuses() -> None:
    found = finding("model-budgets", sound(AI_MODEL="nobody-has-priced-it"))
    assert found.status == "skip" and "there is no price for nobody-has-priced-it" in found.detail


def test_a_database_that_is_away_fails_and_leaves_out_what_stands_in_it() -> None:
    away = "the database does not answer"
    facts = sound(database_seen="it does not answer", postgres_seen=away, store_seen=away)
    report = judge_all(CHECKS, facts)
    assert {found.name for found in report.findings if found.status == "fail"} == {"database"}
    skipped = {found.name for found in report.findings if found.status == "skip"}
    assert {"schema", "root-keys", "audit-log", "approvers", "agent-scopes", "postgresql"} <= skipped
    assert finding("tls", facts).status == "pass"


def test_nothing_is_skipped_unless_something_says_why() -> None:
    for facts in [facts for cases in BAD.values() for facts, _ in cases]:
        for found in judge_all(CHECKS, facts).findings:
            assert found.status != "skip" or found.detail


def test_a_check_that_breaks_has_failed_and_hides_no_other() -> None:
    def breaks(_: Facts) -> str | None:
        raise KeyError("a secret")

    def unseen(_: Facts) -> str | None:
        raise Unseen("it is dark")

    broken = Check("broken", "x", "x", "warn", breaks, "x")
    dark = Check("dark", "x", "x", "fail", unseen, "x")
    report = judge_all((broken, dark, CHECKS[0]), sound())
    assert [found.status for found in report.findings] == ["fail", "skip", "pass"]
    assert "secret" not in report.findings[0].detail and "KeyError" in report.findings[0].detail


def test_names_are_unique_and_fit_for_a_label() -> None:
    assert len(set(names())) == len(names())
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names())


def test_nothing_secret_is_said(tmp_path: Path) -> None:
    for cases in BAD.values():
        for facts, _ in cases:
            said = repr(judge_all(CHECKS, facts))
            assert PASSWORD not in said and "q3V7yTn0" not in said and "Xb7qLw9" not in said


def test_many_names_are_cut_short() -> None:
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_an_empty_log_is_sound() -> None:
    assert finding("audit-heads", sound(store_seen=replace(STORE, audit=Audit(0)))).status == "pass"
