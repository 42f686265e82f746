"""Every metric that Relay has: name, kind, meaning and labels. A new part declares its metrics here, and nowhere else.

A name is a promise: the table in the documentation, the alert rules and the dashboards are held against this list.
Every value of a label is known when the process starts, so that each series exists from the first scrape on (a counter
that appears with its first event hides that event from ``increase()``). What a caller chooses, an address, a workspace
or an id never becomes a label.

Gauges marked ``shared`` say something about the database, which every replica reports alike: take ``max`` of them over
instances, never ``sum``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "info"]

ROUTES: Final = "route"
"""Values: the templates of the sealed routes, and ``(none)`` for what no route answered."""
ACTIONS: Final = "action"
"""Values: the names of the actions in the catalogue, and ``(other)`` for one that is there no more."""
CHECKS: Final = "check"
"""Values: the names of the checks of ``relay doctor``."""
OPEN: Final = frozenset({ROUTES, ACTIONS, CHECKS})
"""Kinds of label values that the composition root gives when it has built the application."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
WAIT_SECONDS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``labels`` maps each label to its values, or to the name of a set in :data:`OPEN`.

    ``series`` lists the combinations of label values that there are, where not every one is possible. A gauge that
    is not ``shared`` is each process's own; a scrape of several processes shows the greatest of those alive, or with
    ``summed`` their sum.
    """

    name: str
    kind: Kind
    meaning: str
    labels: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    shared: bool = False
    summed: bool = False
    series: tuple[tuple[str, ...], ...] = ()


VIOLATIONS: Final[dict[str, str]] = {
    "late_outcome": "warning",
    "revoked_key_used": "warning",
    "many_keys_one_address": "warning",
    "key_leaked": "critical",
    "honey_key_used": "critical",
    "honey_action_used": "critical",
    "audit_log_broken": "critical",
    "lock_broken": "critical",
}
"""What is a security violation, with its severity. None can be brought about by a stranger without any credential
except ``many_keys_one_address``, which therefore is no more than a warning."""

AUTH_REASONS: Final = (
    "missing_token",
    "invalid_token",
    "dead_credential",
    "address_not_allowed",
    "quarantined",
    "insufficient_scopes",
)
OUTCOMES: Final = ("succeeded", "failed", "unknown", "denied", "cancelled", "expired")
CALL_ENDS: Final = ("succeeded", "failed", "unknown", "denied", "expired", "cancelled", "previewed", "refused")
MODELS: Final = ("first", "fallback")
MODEL_OUTCOMES: Final = (
    "answered",
    "cancelled",
    "unreachable",
    "lost",
    "busy",
    "failing",
    "refused",
    "rejected",
    "timeout",
    "too_large",
    "invalid",
)
UNUSUAL: Final = ("first_use", "new_network", "volume", "denials_then_success")
SECRETS: Final = ("SECRET_KEY", "OAUTH_ENCRYPTION_KEY", "WEBHOOK_SIGNING_SECRET", "pepper")
SECRETS_OF_WORKSPACES: Final = ("webhook_receivers", "webhook_endpoints")

METRICS: Final = (
    Metric(
        "security_violations_total",
        "counter",
        "Security violations; the workspace stands in the audit event.",
        {"type": tuple(VIOLATIONS), "severity": ("warning", "critical")},
        series=tuple(VIOLATIONS.items()),
    ),
    Metric(
        "auth_failures_total",
        "counter",
        "Requests that were refused for their credential (401) or for what it may not do (403).",
        {"reason": AUTH_REASONS, "endpoint": ROUTES},
    ),
    Metric("rate_limit_hits_total", "counter", "Requests that a limit refused.", {"endpoint": ROUTES}),
    Metric(
        "relay_http_requests_total",
        "counter",
        "Requests answered.",
        {"route": ROUTES, "status": ("1xx", "2xx", "3xx", "4xx", "5xx")},
    ),
    Metric(
        "relay_http_request_duration_seconds",
        "histogram",
        "Time from the head of a request to the end of its answer; event streams are left out.",
        {"route": ROUTES},
        SECONDS,
    ),
    Metric(
        "relay_decisions_total",
        "counter",
        "Decisions of policies.",
        {"effect": ("allow", "require_approval", "deny"), "error": ("false", "true")},
        series=(("allow", "false"), ("require_approval", "false"), ("deny", "false"), ("deny", "true")),
    ),
    Metric(
        "relay_attempts_total",
        "counter",
        "Attempts of actions that came to an end.",
        {"action": ACTIONS, "outcome": OUTCOMES},
    ),
    Metric("relay_attempt_duration_seconds", "histogram", "Time that the effect took.", {"action": ACTIONS}, SECONDS),
    Metric(
        "relay_runs",
        "gauge",
        "Plan runs that have not ended, by state.",
        {"state": ("queued", "running", "pending_approval")},
        shared=True,
    ),
    Metric(
        "relay_runs_ended_total",
        "counter",
        "Plan runs that came to an end.",
        {"outcome": ("succeeded", "failed", "cancelled", "unknown")},
    ),
    Metric("relay_approvals_waiting", "gauge", "Requests that wait for approval.", shared=True),
    Metric("relay_approvals_oldest_seconds", "gauge", "Age of the oldest of them; 0 without any.", shared=True),
    Metric(
        "relay_queue_depth",
        "gauge",
        "Durable work that is due and that nobody works on.",
        {"kind": ("run", "attempt", "delivery")},
        shared=True,
    ),
    Metric(
        "relay_queue_oldest_seconds",
        "gauge",
        "For how long the oldest of it has been due; 0 without any.",
        {"kind": ("run", "attempt", "delivery")},
        shared=True,
    ),
    Metric(
        "relay_webhook_deliveries_total",
        "counter",
        "Attempts to deliver a webhook.",
        {"outcome": ("delivered", "failed", "dead")},
    ),
    Metric("relay_webhook_delivery_duration_seconds", "histogram", "Time that one attempt took.", {}, SECONDS),
    Metric(
        "relay_webhook_endpoints",
        "gauge",
        "Webhook endpoints, by state; failing ones have a delivery that failed and none that succeeded since.",
        {"state": ("enabled", "failing", "disabled")},
        shared=True,
    ),
    Metric(
        "relay_webhooks_received_total", "counter", "Webhooks verified and stored.", {"duplicate": ("false", "true")}
    ),
    Metric("relay_webhook_signature_refusals_total", "counter", "Incoming webhooks without a right signature."),
    Metric(
        "relay_plan_duration_seconds", "histogram", "Time to make a plan.", {"planner": ("local", "model")}, SECONDS
    ),
    Metric("relay_chat_sessions", "gauge", "Chat sessions that are kept.", shared=True),
    Metric(
        "relay_chat_turns_open",
        "gauge",
        "Chat turns that have not ended, by state.",
        {"state": ("running", "awaiting_approval")},
        shared=True,
    ),
    Metric(
        "relay_chat_abandoned_seconds",
        "gauge",
        "For how long the oldest running chat turn has had no process that works on it, counted from its beginning "
        "where it was given back; 0 without any.",
        shared=True,
    ),
    Metric(
        "relay_chat_turns_total",
        "counter",
        "Chat turns that came to an end.",
        {"outcome": ("done", "failed", "cancelled")},
    ),
    Metric(
        "relay_chat_turn_duration_seconds",
        "histogram",
        "Time that a chat turn was worked on without a pause; the wait for an approval is between two such times.",
        {},
        LONG_SECONDS,
    ),
    Metric(
        "relay_chat_calls_total",
        "counter",
        "Actions that conversations have asked for and that came to an end.",
        {"status": CALL_ENDS},
    ),
    Metric(
        "relay_chat_wait_seconds",
        "histogram",
        "Time from when a conversation asked for an action until that neither waited for approval nor was held back.",
        {},
        WAIT_SECONDS,
    ),
    Metric(
        "relay_chat_resumed_total",
        "counter",
        "Chat turns that went on: after a decision, or with another process than before.",
        {"cause": ("decision", "takeover")},
    ),
    Metric("relay_chat_streams", "gauge", "Event streams of chats that are open.", summed=True),
    Metric(
        "relay_model_requests_total",
        "counter",
        "Requests to language models, by what became of them.",
        {"model": MODELS, "outcome": MODEL_OUTCOMES},
    ),
    Metric(
        "relay_model_request_duration_seconds",
        "histogram",
        "Time from a request to a language model to the end of its answer, or to its failure.",
        {"model": MODELS},
        LONG_SECONDS,
    ),
    Metric(
        "relay_model_first_piece_seconds",
        "histogram",
        "Time from a request to a language model to the first piece of a streamed answer's text.",
        {"model": MODELS},
        LONG_SECONDS,
    ),
    Metric(
        "relay_model_tokens_total",
        "counter",
        "Tokens that language models have read and written, by their services' counts where there are any.",
        {"model": MODELS, "direction": ("in", "out")},
    ),
    Metric(
        "relay_model_cost_dollars_total",
        "counter",
        "What language models have cost in US dollars, as budgets count it.",
        {"model": MODELS},
    ),
    Metric(
        "relay_model_retries_total",
        "counter",
        "Requests to language models that were repeated, since nothing of an answer had come.",
        {"model": MODELS},
    ),
    Metric(
        "relay_model_budget_refusals_total",
        "counter",
        "Questions that were not asked, since a budget had too little left.",
        {"budget": ("day", "session")},
    ),
    Metric("relay_model_in_flight", "gauge", "Answers of language models that are waited for.", summed=True),
    Metric(
        "relay_model_breaker",
        "gauge",
        "Circuit breaker of a language model: 0 closed, 1 trying one question, 2 open.",
        {"model": MODELS},
    ),
    Metric("relay_audit_commit_seconds", "histogram", "Time of one durable commit of the writer.", {}, SECONDS),
    Metric("relay_audit_batch_size", "histogram", "Units of work in one commit.", {}, SIZES),
    Metric("relay_audit_write_errors_total", "counter", "Transactions that could not be committed."),
    Metric("relay_audit_events_total", "counter", "Audit events recorded by this process."),
    Metric("relay_audit_size", "gauge", "Number of events in the audit log.", shared=True),
    Metric("relay_audit_last_event_timestamp_seconds", "gauge", "When the newest audit event occurred.", shared=True),
    Metric(
        "relay_audit_last_verified_timestamp_seconds",
        "gauge",
        "When the log was last verified by this process without finding; 0 before.",
    ),
    Metric(
        "relay_audit_verification_failed", "gauge", "1 while the last verification found that the log does not hold."
    ),
    Metric("relay_limiter_shared", "gauge", "1 where limits are counted in Redis, 0 in process."),
    Metric(
        "relay_limiter_fallback", "gauge", "1 while Redis does not answer and stricter limits are counted in process."
    ),
    Metric(
        "relay_key_soonest_end_timestamp_seconds",
        "gauge",
        "When the next API key ends that has no successor and was made to live over 14 days; 0 without any.",
        shared=True,
    ),
    Metric("relay_keys", "gauge", "API keys that live.", {"kind": ("agent", "person")}, shared=True),
    Metric(
        "relay_secret_age_seconds",
        "gauge",
        "For how long a secret has been in use; of workspaces' own, the oldest.",
        {"secret": (*SECRETS, *SECRETS_OF_WORKSPACES)},
        shared=True,
    ),
    Metric(
        "relay_secret_period_seconds",
        "gauge",
        "After which age a secret should be rotated.",
        {"secret": (*SECRETS, *SECRETS_OF_WORKSPACES)},
        shared=True,
    ),
    Metric(
        "relay_kill_switch_on",
        "gauge",
        "Kill switches that are on, by what they stop.",
        {"scope": ("everything", "workspace", "key", "action", "connector")},
        shared=True,
    ),
    Metric("relay_unusual_use_total", "counter", "Unusual uses of a key.", {"rule": UNUSUAL}),
    Metric("relay_doctor_failing", "gauge", "1 for each check of `relay doctor` that fails.", {"check": CHECKS}),
    Metric(
        "relay_environment",
        "gauge",
        "1 for the RELAY_ENV of this process.",
        {"env": ("production", "local", "test")},
    ),
    Metric(
        "relay_development_mode",
        "gauge",
        "1 while a mode is on that skips a credential.",
        {"mode": ("dev_auth", "unsigned_webhooks", "chat_pilot")},
    ),
    Metric(
        "relay_processes",
        "gauge",
        "Processes that this scrape counts together.",
        {"kind": ("server", "worker")},
        summed=True,
    ),
    Metric(
        "relay_metrics_undeclared_total",
        "counter",
        "Events that could not be counted, since a label had a value that is not declared: a defect of Relay.",
    ),
    Metric(
        "relay_metrics_source_up",
        "gauge",
        "0 while what is read at a scrape could not be read in time; its gauges are missing then.",
        {"source": ("database", "keys", "secrets")},
        shared=True,
    ),
    Metric("relay_build_info", "info", "1, with the version of Relay and of Python.", {"version": (), "python": ()}),
    Metric(
        "relay_http_destination_errors_total",
        "counter",
        "Requests answered 502 or 504, or 503 since no model answers, which tell of a destination; "
        "relay_http_requests_total counts them as 5xx.",
        {"route": ROUTES},
    ),
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}
"""The metrics by their names."""
