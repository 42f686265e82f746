"""Each setting's values: what is accepted, what it becomes, what is refused with which sentence."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relay.settings import Settings, SettingsError, load_settings
from relay.settings.docs import configuration_markdown
from relay.settings.model import FIELDS, SECRETS
from relay.settings.parse import is_loopback_host

CWD = Path("/nowhere")


def load(**values: str) -> Settings:
    return load_settings(values, CWD)


def problems(**values: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(**values)
    return caught.value.problems


def test_defaults_are_those_of_the_contract() -> None:
    settings = load()
    assert (settings.env, settings.host, settings.port) == ("production", "127.0.0.1", 8000)
    assert settings.public_url is None and settings.trusted_proxies == () and settings.egress_allow == ()
    assert settings.dev_auth_mode is False and settings.actions_enabled is True
    assert settings.sqlite_path == settings.data_dir / "relay.db" and settings.data_dir.is_absolute()
    assert not settings.shared_database and settings.loopback_bind
    assert (settings.preview_ttl_seconds, settings.retention_days, settings.idempotency_ttl_hours) == (3600, 30, 24)
    assert (settings.body_limit_bytes, settings.streams_per_principal) == (512 * 1024, 5)
    assert settings.security_contact == "mailto:security@localhost"
    assert settings.warnings == ()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load().dev_auth_mode = True


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("RELAY_ENV", "test", "env", "test"),
        ("RELAY_DATA_DIR", "/srv/relay", "data_dir", Path("/srv/relay")),
        ("RELAY_DATA_DIR", "data", "data_dir", CWD / "data"),
        ("RELAY_HOST", "localhost", "host", "127.0.0.1"),
        ("RELAY_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("RELAY_HOST", "[::1]", "host", "::1"),
        ("RELAY_PORT", "0", "port", 0),
        ("RELAY_PUBLIC_URL", "https://Relay.Example.com:8443/", "public_url", "https://relay.example.com:8443"),
        ("RELAY_PUBLIC_URL", "http://[::1]:8000", "public_url", "http://[::1]:8000"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", "trusted_proxies", (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
        ("EGRESS_ALLOW", "intra.example, 10.1.0.0/16:443", "egress_allow", ("intra.example", "10.1.0.0/16:443")),
        ("DEV_AUTH_MODE", "true", "dev_auth_mode", True),
        ("ACTIONS_ENABLED", "false", "actions_enabled", False),
        ("SMTP_FROM", "Relay <relay@example.com>", "smtp_from", "Relay <relay@example.com>"),
        ("SECURITY_CONTACT", "https://example.com/report", "security_contact", "https://example.com/report"),
        (
            "SECURITY_POLICY_URL",
            "https://example.com/policy?x=1",
            "security_policy_url",
            "https://example.com/policy?x=1",
        ),
        ("LOG_LEVEL", "WARNING", "log_level", "warning"),
    ],
)
def test_accepted(name: str, text: str, field: str, value: object) -> None:
    assert getattr(load(**{name: text}), field) == value


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_an_empty_value_is_none(name: str) -> None:
    assert load(**{name: ""}) == load()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("RELAY_ENV", "prod", "must be 'production', 'local' or 'test'"),
        ("RELAY_ENV", "Local", "must be"),
        ("RELAY_HOST", "relay.example.com", "IP address"),
        ("RELAY_HOST", "127.0.0.1:80", "IP address"),
        ("RELAY_PORT", "65536", "less than or equal to 65535"),
        ("RELAY_PORT", "-1", "whole number"),
        ("RELAY_PORT", "8_000", "whole number"),
        ("RELAY_PORT", " 80", "whole number"),
        ("RELAY_PORT", "80.0", "whole number"),
        ("RELAY_PORT", "٨", "whole number"),
        ("RELAY_PORT", "tcp://10.0.0.7:8000", "enableServiceLinks"),
        ("RELAY_PUBLIC_URL", "relay.example.com", "complete address"),
        ("RELAY_PUBLIC_URL", "ftp://relay.example.com", "must look like"),
        ("RELAY_PUBLIC_URL", "https://relay.example.com/relay", "no path"),
        ("RELAY_PUBLIC_URL", "https://relay.example.com?", "no path"),
        ("RELAY_PUBLIC_URL", "https://a:b@relay.example.com", "must look like"),
        ("RELAY_PUBLIC_URL", "https://relay.example.com:99999", "complete address"),
        ("RELAY_PUBLIC_URL", "https://[::1", "complete address"),
        ("RELAY_PUBLIC_URL", "https:///", "complete address"),
        ("RELAY_PUBLIC_URL", "https://relay.example.com\\@evil.example", "complete address"),
        ("TRUSTED_PROXIES", "*", "networks"),
        ("TRUSTED_PROXIES", "0.0.0.0/0", "every peer"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "networks"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,", "empty entries"),
        ("EGRESS_ALLOW", "a,,b", "empty entries"),
        ("DEV_AUTH_MODE", "True", "exactly true or false"),
        ("DEV_AUTH_MODE", "1", "exactly true or false"),
        ("DEV_AUTH_MODE", "yes", "exactly true or false"),
        ("ACTIONS_ENABLED", "off", "exactly true or false"),
        ("RELAY_DATA_DIR", "~no-such-user/x", "home folder"),
        ("SMTP_FROM", "relay", "must look like"),
        ("SMTP_FROM", "a@b, c@d", "must look like"),
        ("SMTP_CA_FILE", "/nowhere/ca.pem", "file that exists"),
        ("SMTP_CA_FILE", "x" * 5000, "file that exists"),
        ("SECURITY_CONTACT", "security@example.com", "mailto:"),
        ("SECURITY_POLICY_URL", "http://example.com", "https://"),
        ("RETENTION_DAYS", "0", "greater than or equal to 1"),
        ("IDEMPOTENCY_TTL_HOURS", "0", "greater than or equal to 1"),
        ("LOG_LEVEL", "loud", "must be"),
        ("SECRETS_FROM_ENVIRONMENT", "yes", "must be"),
    ],
)
def test_refused(name: str, text: str, says: str) -> None:
    (problem,) = problems(**{name: text})
    assert problem.startswith(f"{name}: ") and says in problem


def test_control_characters_and_bytes_that_are_no_text_are_refused() -> None:
    for text in ("a\nb", "a\x00", "a\udcff"):
        assert problems(SMTP_FROM=text)[0].startswith("SMTP_FROM: must be text")


@given(st.sampled_from(sorted(FIELDS)), st.text(st.characters(exclude_categories=[]), max_size=60))
def test_loading_raises_nothing_but_settings_errors(name: str, text: str) -> None:
    found: tuple[str, ...] = ()
    try:
        load(**{name: text})
    except SettingsError as error:
        found = error.problems
    assert all(problem.startswith(f"{name}: ") for problem in found)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////srv/relay/my.db", Path("/srv/relay/my.db")),
        ("sqlite:///relay.db", CWD / "relay.db"),
    ],
)
def test_sqlite_urls(url: str, path: Path) -> None:
    settings = load(DATABASE_URL=url)
    assert settings.sqlite_path == path and not settings.shared_database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://relay:pw@db.example:5432/relay",
        "postgres://db/relay?sslmode=verify-full",
        "postgresql:///relay?host=/run/postgresql",
        "postgresql://[::1]/relay",
    ],
)
def test_postgresql_urls(url: str) -> None:
    settings = load(DATABASE_URL=url)
    assert settings.shared_database and settings.sqlite_path is None
    assert settings.database_url is not None and settings.database_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/d",
        "postgresql+psycopg://h/d",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "sqlite:///folder/",
        "relay.db",
        "postgresql://h:port/d",
        "postgresql://YOUR_USER:YOUR_PASSWORD@h/d",
        "postgresql://h o st/d",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    (problem,) = problems(DATABASE_URL=url)
    assert problem.startswith("DATABASE_URL: ")


def test_mail_and_redis_addresses() -> None:
    for name, good, bad in [
        ("REDIS_URL", ["redis://:pw@r:6379/0", "rediss://r", "unix:///run/redis.sock"], ["http://r", "redis://", "r"]),
        (
            "SMTP_URL",
            ["smtp://u:pw@mail.example:587", "smtps://mail.example"],
            ["mail.example:25", "smtp://", "http://m"],
        ),
    ]:
        for url in good:
            loaded = load(**{name: url, "SMTP_FROM": "relay@example.com"})
            assert getattr(loaded, name.lower()).get_secret_value() == url
        for url in bad:
            assert problems(**{name: url, "SMTP_FROM": "relay@example.com"})[0].startswith(f"{name}: ")


def test_settings_that_need_each_other() -> None:
    assert problems(SMTP_URL="smtp://127.0.0.1:25") == ("SMTP_FROM: must be set together with SMTP_URL",)
    assert problems(PREVIEW_TTL_SECONDS="7200", IDEMPOTENCY_TTL_HOURS="1") == (
        "IDEMPOTENCY_TTL_HOURS: must not be shorter than PREVIEW_TTL_SECONDS",
    )
    assert problems(RETENTION_DAYS="1", IDEMPOTENCY_TTL_HOURS="25") == (
        "RETENTION_DAYS: must not be shorter than IDEMPOTENCY_TTL_HOURS",
    )


def test_the_security_contact_follows_the_public_url() -> None:
    settings = load(RELAY_PUBLIC_URL="https://relay.example.com:8443")
    assert settings.security_contact == "mailto:security@relay.example.com"


def test_every_problem_is_told_at_once_and_only_once() -> None:
    found = problems(RELAY_PORT="x", RELAY_ENV="x", DEV_AUTH_MODE="x", RELAY_PUBLIC_URL="x", RELAY_HOTS="x")
    assert [line.partition(":")[0] for line in found] == [
        "DEV_AUTH_MODE",
        "RELAY_ENV",
        "RELAY_HOTS",
        "RELAY_PORT",
        "RELAY_PUBLIC_URL",
    ]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_hosts(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "127.0.0.1.nip.io", "notlocalhost"]
)
def test_other_hosts(host: str) -> None:
    assert not is_loopback_host(host)


def test_exactly_the_settings_that_hold_secrets_are_secret() -> None:
    keys = {"SECRET_KEY", "OAUTH_ENCRYPTION_KEY", "WEBHOOK_SIGNING_SECRET"}
    others = {"DATABASE_URL", "REDIS_URL", "SMTP_URL", "METRICS_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS", "CHAT_API_KEY"}
    models = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"}
    assert {*others, *models, *keys, *(f"{name}_PREVIOUS" for name in keys)} == SECRETS


def test_every_setting_is_documented_and_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == configuration_markdown(), "run: python -m relay.settings.docs > " + str(
        page
    )
    for name, info in FIELDS.items():
        assert f"| `{name}` |" in configuration_markdown() and info.description
