"""Every setting: its name, type, bounds, default and meaning. The table in the documentation is made from this."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from relay.core.clock import end_of_day
from relay.settings import parse
from relay.settings.model_ai import AiSettings
from relay.settings.model_operations import OperationsSettings
from relay.settings.model_secrets import SecretsSettings
from relay.settings.model_telemetry import TelemetrySettings
from relay.settings.secret_text import (
    WEBHOOK_PREFIX,
    Made,
    generate_kek,
    generate_secret_key,
    generate_webhook_secret,
)

Env = Literal["production", "local", "test"]
LogLevel = Literal["debug", "info", "warning", "error"]

_PREFIXED: Final = frozenset({"env", "data_dir", "host", "port", "public_url"})
_INTERNAL: Final = frozenset({"warnings"})

Switch = Annotated[bool, BeforeValidator(parse.switch)]
Whole = Annotated[int, BeforeValidator(parse.whole)]


def variable(field: str) -> str:
    """Return the environment's name of a field: ``data_dir`` is ``RELAY_DATA_DIR``, ``smtp_url`` is ``SMTP_URL``."""
    return f"RELAY_{field.upper()}" if field in _PREFIXED else field.upper()


def _shown(text: str) -> dict[str, Any]:
    return {"shown_default": text}


def _rate(default: int, description: str) -> Any:
    return Field(default=default, ge=1, le=1_000_000, description=description)


def _data_dir() -> Path:
    return platformdirs.user_data_path("relay", appauthor=False)


def _cors_origins(data: dict[str, Any]) -> tuple[str, ...]:
    return ("http://localhost:5173", "http://localhost:3000") if data.get("env") == "local" else ()


def _security_contact(data: dict[str, Any]) -> str:
    host = urlsplit(data.get("public_url") or "http://localhost").hostname
    return f"mailto:security@{host}"


class Settings(TelemetrySettings, SecretsSettings, AiSettings, OperationsSettings):
    """The settings of one process, fixed once read. Made by :func:`~relay.settings.sources.load_settings` alone.

    Every secret is a ``SecretStr``: neither ``repr`` nor a dump shows it. ``warnings`` are sentences about where the
    settings came from, to be logged at start; see also :func:`~relay.settings.safety.warnings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, alias_generator=variable)

    env: Env = Field(
        default="production",
        description="What this installation is for. Taken from the process environment only, never from `.env`.",
    )
    data_dir: Annotated[Path, BeforeValidator(parse.folder)] = Field(
        default_factory=_data_dir,
        json_schema_extra=_shown("the platform's user data folder, `~/.local/share/relay` on Linux"),
        description="Folder of the database and the generated keys. Made with mode 0700.",
    )
    host: Annotated[str, BeforeValidator(parse.bind_address)] = Field(
        default="127.0.0.1", description="IP address to listen on; `localhost` is 127.0.0.1."
    )
    port: Whole = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    public_url: Annotated[str | None, BeforeValidator(parse.origin)] = Field(
        default=None, description="Where callers reach Relay, for instance `https://relay.example.com`."
    )
    trusted_proxies: Annotated[tuple[parse.Network, ...], BeforeValidator(parse.networks)] = Field(
        default=(),
        description="Networks of the reverse proxies whose forwarding headers count, comma-separated; "
        "see [deployment](DEPLOYMENT.md).",
    )
    trusted_proxy_header: Annotated[Literal["x-forwarded-for", "forwarded"], BeforeValidator(parse.lower)] = Field(
        default="x-forwarded-for",
        description="The header in which those proxies name the client: `x-forwarded-for`, with `X-Forwarded-Proto`, "
        "or `forwarded` (RFC 7239). The other one is never read.",
    )
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(parse.origins)] = Field(
        default_factory=_cors_origins,
        json_schema_extra=_shown("`http://localhost:5173,http://localhost:3000` in `local`, else none"),
        description="Exact origins of the web pages that may call Relay, comma-separated; `none` for none.",
    )
    database_url: Annotated[SecretStr | None, BeforeValidator(parse.database_url)] = Field(
        default=None,
        json_schema_extra=_shown("SQLite in the data folder"),
        description="`postgresql://user:password@host/name`, or `sqlite:////absolute/path`.",
    )
    redis_url: Annotated[SecretStr | None, BeforeValidator(parse.redis_url)] = Field(
        default=None,
        json_schema_extra=_shown("in-process"),
        description="`redis://`, `rediss://` or `unix://` address of the store that replicas share.",
    )
    dev_auth_mode: Switch = Field(
        default=False,
        description="Requests without credential act as the person `dev`. Start-up refuses it unless "
        "`RELAY_ENV=local`, the bind is loopback, `TRUSTED_PROXIES` is empty and `RELAY_PUBLIC_URL` is not public.",
    )
    actions_enabled: Switch = Field(
        default=True, description="When `false`, the routes that plan, preview and execute answer 404."
    )
    secret_key: Annotated[SecretStr | None, BeforeValidator(parse.secret_key), Made(generate_secret_key)] = Field(
        default=None,
        json_schema_extra=_shown("generated into the data folder; required with PostgreSQL"),
        description="Root from which signing keys are derived: at least 32 random characters.",
    )
    oauth_encryption_key: Annotated[SecretStr | None, BeforeValidator(parse.encryption_key), Made(generate_kek)] = (
        Field(
            default=None,
            json_schema_extra=_shown("generated into the data folder; required with PostgreSQL"),
            description="Key-encryption key for everything that is stored secret: a Fernet key (base64 of 32 bytes).",
        )
    )
    webhook_signing_secret: Annotated[
        SecretStr | None, BeforeValidator(parse.webhook_secret), Made(generate_webhook_secret)
    ] = Field(
        default=None,
        json_schema_extra=_shown("generated into the data folder; with PostgreSQL the route answers 503"),
        description="Secret of `/webhooks/relay`: `whsec_…` is Standard Webhooks; any other text of 32 random "
        "characters or more is the legacy scheme and needs `WEBHOOK_LEGACY_UNTIL`.",
    )
    webhook_legacy_until: Annotated[date | None, BeforeValidator(parse.day)] = Field(
        default=None,
        validate_default=True,
        description="The last day, in UTC, on which `/webhooks/relay` takes the legacy scheme, for instance "
        "`2030-12-31`.",
    )
    webhook_allow_unsigned: Switch = Field(
        default=False,
        description="Webhooks without a signature are accepted from this machine. Start-up refuses it unless "
        "`RELAY_ENV=local`, the bind is loopback, `TRUSTED_PROXIES` is empty and `RELAY_PUBLIC_URL` is not public.",
    )
    smtp_url: Annotated[SecretStr | None, BeforeValidator(parse.smtp_url)] = Field(
        default=None,
        json_schema_extra=_shown("none: mail goes into a Maildir in the data folder"),
        description="`smtp://user:password@host:587` (STARTTLS) or `smtps://…:465` (implicit TLS).",
    )
    smtp_from: Annotated[str | None, BeforeValidator(parse.mailbox)] = Field(
        default=None, validate_default=True, description="Sender of all mail. Required with `SMTP_URL`."
    )
    smtp_ca_file: Annotated[Path | None, BeforeValidator(parse.existing_file)] = Field(
        default=None,
        json_schema_extra=_shown("the system's certificate authorities"),
        description="PEM file of the authorities that may vouch for the mail relay.",
    )
    egress_allow: Annotated[tuple[str, ...], BeforeValidator(parse.entries)] = Field(
        default=(),
        json_schema_extra=_shown("public addresses only"),
        description="Hosts or networks that actions may reach, each optionally with a port, comma-separated. They are "
        "internal to the default [policy](policies.md#what-is-internal): agents may write to them without approval.",
    )
    internal_domains: Annotated[tuple[str, ...], BeforeValidator(parse.domains)] = Field(
        default=(),
        json_schema_extra=_shown("none: everything is external"),
        description="Domains whose mail addresses and hosts are internal, comma-separated: `example.com` for itself "
        "alone, `*.example.com` for everything below it; see [policies](policies.md#what-is-internal).",
    )
    policy_baseline_file: Annotated[Path | None, BeforeValidator(parse.existing_file)] = Field(
        default=None,
        description="File with `forbid` rules, in Cedar, that hold in every workspace beside its own policies; see "
        "[policies](policies.md#the-baseline).",
    )
    approval_ttl_hours: Whole = Field(
        default=24, ge=1, le=720, description="How long a step waits for approval before it expires."
    )
    approvals_per_key: Whole = Field(
        default=200, ge=1, le=100_000, description="How many requests of one key may wait for approval at once."
    )
    approvals_per_workspace: Whole = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="How many requests of one workspace may wait for approval at once.",
    )
    approval_mail_to: Annotated[tuple[str, ...], BeforeValidator(parse.addresses)] = Field(
        default=(),
        description="Addresses that get a mail about each request for approval, comma-separated; it goes the way of "
        "all mail, see `SMTP_URL` and [approvals](approvals.md#notices).",
    )
    hold_back_seconds: Whole = Field(
        default=0,
        ge=0,
        le=86_400,
        description="How long an irreversible action that is allowed waits, so that one call can recall it.",
    )
    decision_retention_days: Whole = Field(
        default=30,
        ge=0,
        le=3650,
        description="For how many days what decisions were made upon is kept, so that a draft of policies can be "
        "replayed over them; 0 keeps nothing. See [policies](policies.md#replay).",
    )
    policy_replay_required: Switch = Field(
        default=False,
        description="When `true`, a version of policies is activated only within an hour of a replay of its text. "
        "Needs `DECISION_RETENTION_DAYS`.",
    )
    security_contact: Annotated[str, BeforeValidator(parse.contact)] = Field(
        default_factory=_security_contact,
        json_schema_extra=_shown("`mailto:security@` and the host of `RELAY_PUBLIC_URL`"),
        description="Contact in `/.well-known/security.txt` (RFC 9116, RFC 2142).",
    )
    security_policy_url: Annotated[str | None, BeforeValidator(parse.web_page)] = Field(
        default=None, description="Disclosure policy named in `/.well-known/security.txt`."
    )
    preview_ttl_seconds: Whole = Field(default=3600, ge=10, le=604_800, description="How long a preview can be used.")
    plan_ttl_seconds: Whole = Field(default=3600, ge=10, le=604_800, description="How long a plan can be executed.")
    idempotency_ttl_hours: Whole = Field(
        default=24,
        ge=1,
        le=8760,
        description="How long an idempotency key is remembered; at least as long as a preview.",
    )
    retention_days: Whole = Field(
        default=30,
        ge=1,
        le=3650,
        description="After how many days parameters and results of actions are erased; "
        "at least as long as an idempotency key is remembered.",
    )
    body_limit_bytes: Whole = Field(
        default=524_288, ge=16_384, le=16_777_216, description="Largest request body, for routes that declare no other."
    )
    request_timeout_seconds: Whole = Field(
        default=30, ge=1, le=600, description="How long a request's body may take to arrive."
    )
    header_timeout_seconds: Whole = Field(
        default=10,
        ge=1,
        le=120,
        description="How long a new connection has to send the head of its first request, "
        "and any request its head, from the first byte on.",
    )
    keep_alive_seconds: Whole = Field(
        default=75,
        ge=1,
        le=3600,
        description="How long a connection may be idle between requests; longer than the reverse proxy keeps its own.",
    )
    max_connections: Whole = Field(
        default=1000,
        ge=10,
        le=100_000,
        description="How many connections one process holds. Beyond it the one that "
        "has been idle the longest is closed, and when none is idle the new one gets 503.",
    )
    shutdown_grace_seconds: Whole = Field(
        default=30, ge=1, le=600, description="How long a shutdown waits for what it has acknowledged."
    )
    run_concurrency: Whole = Field(
        default=8, ge=1, le=256, description="How many plan runs one process works on at once."
    )
    work_in_server: Switch = Field(
        default=True,
        description="Whether server processes work on plan runs and whatever else is durable. `false` leaves it to "
        "`relay worker`, which needs PostgreSQL; see [deployment](DEPLOYMENT.md#workers).",
    )
    streams_per_principal: Whole = Field(
        default=5, ge=1, le=100, description="How many event streams one principal may hold open."
    )
    rate_limit_mode: Literal["enforce", "observe"] = Field(
        default="enforce",
        description="`observe` counts and reports what the limits would refuse, and refuses nothing; see limits.md.",
    )
    rate_limit_per_minute: Whole = _rate(30, "Chat messages of one address in a minute.")
    rate_limit_global_per_minute: Whole = _rate(100, "All requests of one address (IPv6: /64) in a minute.")
    rate_limit_global_network_per_minute: Whole = _rate(300, "All requests of one IPv6 /48 in a minute.")
    rate_limit_plan_per_minute: Whole = _rate(10, "Plans made for one workspace in a minute.")
    rate_limit_ai_execute_per_minute: Whole = _rate(20, "Runs started in one workspace in a minute.")
    rate_limit_execute_per_minute: Whole = _rate(30, "Actions executed one by one in one workspace in a minute.")
    rate_limit_webhooks_per_minute: Whole = _rate(
        600, "Webhooks whose signature is right, for all receivers of one workspace in a minute."
    )
    rate_limit_oauth_per_5_minutes: Whole = _rate(5, "Requests below `/oauth/` of one address in five minutes.")
    rate_limit_credentials_per_5_minutes: Whole = _rate(
        20, "Credentials that are not valid, from one address in five minutes, before further ones get 429."
    )
    rate_limit_actions: Annotated[tuple[parse.ActionLimit, ...], BeforeValidator(parse.action_limits)] = Field(
        default=(),
        json_schema_extra=_shown("what each action declares"),
        description="How often an action may run in one workspace, in place of what it declares: "
        "`email.send=100/3600,http.request=10/1` (times per seconds).",
    )
    concurrency_actions: Annotated[tuple[parse.ActionPlaces, ...], BeforeValidator(parse.action_places)] = Field(
        default=(),
        json_schema_extra=_shown("what each action declares"),
        description="How many attempts of an action may be under way at once in one workspace, in place of what it "
        "declares: `email.send=4`.",
    )
    secrets_from_environment: Literal["warn", "accepted"] = Field(
        default="warn",
        description="`accepted` silences the warning about secrets in the environment, where the platform manages it.",
    )
    log_level: Annotated[LogLevel, BeforeValidator(parse.lower)] = Field(
        default="info", description="Least severe level that is logged."
    )
    warnings: tuple[str, ...] = Field(default=(), alias="warnings", repr=False)

    @field_validator("webhook_legacy_until")
    @classmethod
    def _legacy_has_an_end(cls, value: date | None, info: ValidationInfo) -> date | None:
        secret = info.data.get("webhook_signing_secret")
        if value is None and secret is not None and not secret.get_secret_value().startswith(WEBHOOK_PREFIX):
            raise ValueError("must be set, since WEBHOOK_SIGNING_SECRET does not begin with whsec_")
        return value

    @field_validator("smtp_from")
    @classmethod
    def _sender_of_mail(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("smtp_url") is not None:
            raise ValueError("must be set together with SMTP_URL")
        return value

    @field_validator("policy_replay_required")
    @classmethod
    def _has_something_to_replay(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("decision_retention_days") == 0:
            raise ValueError("needs decisions to replay: DECISION_RETENTION_DAYS must not be 0")
        return value

    @field_validator("idempotency_ttl_hours")
    @classmethod
    def _outlives_previews(cls, value: int, info: ValidationInfo) -> int:
        if value * 3600 < info.data.get("preview_ttl_seconds", 0):
            raise ValueError("must not be shorter than PREVIEW_TTL_SECONDS")
        return value

    @field_validator("retention_days")
    @classmethod
    def _outlives_idempotency(cls, value: int, info: ValidationInfo) -> int:
        if value * 24 < info.data.get("idempotency_ttl_hours", 0):
            raise ValueError("must not be shorter than IDEMPOTENCY_TTL_HOURS")
        waits = info.data.get("approval_ttl_hours", 0) * 3600 + info.data.get("hold_back_seconds", 0)
        if value * 86_400 < waits:
            raise ValueError("must not be shorter than APPROVAL_TTL_HOURS and HOLD_BACK_SECONDS together")
        return value

    @property
    def shared_database(self) -> bool:
        """Whether the database is PostgreSQL, which other processes and machines use as well."""
        return self.database_url is not None and not self.database_url.get_secret_value().startswith("sqlite:")

    @property
    def sqlite_path(self) -> Path | None:
        """The absolute path of the SQLite file, ``relay.db`` in the data folder by default; None with PostgreSQL."""
        if self.database_url is None:
            return self.data_dir / "relay.db"
        scheme, _, path = self.database_url.get_secret_value().partition(":///")
        return Path(path) if scheme == "sqlite" else None

    @property
    def webhook_legacy_end(self) -> int | None:
        """The moment after ``webhook_legacy_until``, in microseconds; None when no day is set."""
        return None if self.webhook_legacy_until is None else end_of_day(self.webhook_legacy_until)

    @property
    def loopback_bind(self) -> bool:
        """Whether only this machine can connect."""
        return parse.is_loopback_host(self.host)


_ORDER: Final = [*Settings.__annotations__, *Settings.model_fields]

FIELDS: Final = {
    variable(name): Settings.model_fields[name]
    for name in dict.fromkeys(_ORDER)
    if name in Settings.model_fields and name not in _INTERNAL
}
"""The settings by their names in the environment, in the order of the documentation."""

SECRETS: Final = frozenset(name for name, info in FIELDS.items() if "SecretStr" in str(info.annotation))
"""The names of those that are secret; each may be given as ``NAME_FILE``."""
