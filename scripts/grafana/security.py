"""Who knocks and what is refused: what stands on the dashboard ``security``."""

from typing import Final

from scripts.grafana.panels import GOOD_OR_BAD, GOOD_OR_ODD, Dashboard, Panel, Row

SECURITY: Final = Dashboard(
    "relay-security",
    "Relay / Security",
    "Who knocks, what is refused, what must not happen, and how old keys and secrets are.",
    (
        Row(
            "What must not happen",
            (
                Panel(
                    "Critical violations",
                    "Critical violations in the chosen time; the audit log has each.",
                    "stat",
                    "short",
                    (('sum(increase(security_violations_total{SEL,severity="critical"}[$__range]))', "critical"),),
                    6,
                    ("SecurityViolation",),
                    GOOD_OR_BAD,
                ),
                Panel(
                    "Audit log broken",
                    "1 while the last verification found that the log does not hold.",
                    "stat",
                    "short",
                    (("max(relay_audit_verification_failed{SEL})", "broken"),),
                    6,
                    ("AuditVerificationFailed",),
                    GOOD_OR_BAD,
                ),
                Panel(
                    "Development modes",
                    "Instances that let requests in without a credential.",
                    "stat",
                    "short",
                    (("sum by (mode) (relay_development_mode{SEL})", "{{mode}}"),),
                    6,
                    ("DevelopmentMode",),
                    GOOD_OR_BAD,
                ),
                Panel(
                    "Kill switches",
                    "Kill switches that are on, by what they stop.",
                    "stat",
                    "short",
                    (("max by (scope) (relay_kill_switch_on{SEL})", "{{scope}}"),),
                    6,
                    ("KillSwitchOn",),
                    GOOD_OR_ODD,
                ),
                Panel(
                    "Violations",
                    "Violations in each interval, by type.",
                    "bars",
                    "short",
                    (("sum by (type) (increase(security_violations_total{SEL}[$__rate_interval]))", "{{type}}"),),
                    12,
                    ("SecurityViolation", "RevokedKeyUsed", "ManyKeysOneAddress"),
                ),
                Panel(
                    "Unusual use",
                    "Keys that were used as they were not in their last weeks, by rule. The audit log names the key "
                    "and says why: tag unusual:*.",
                    "bars",
                    "short",
                    (("sum by (rule) (increase(relay_unusual_use_total{SEL}[$__rate_interval]))", "{{rule}}"),),
                    12,
                    ("UnusualUse", "FirstUse"),
                ),
            ),
        ),
        Row(
            "Refusals",
            (
                Panel(
                    "Credentials refused",
                    "Requests a second refused for their credential (401) or for what it may not do (403), by reason.",
                    "timeseries",
                    "reqps",
                    (("sum by (reason) (rate(auth_failures_total{SEL}[$__rate_interval]))", "{{reason}}"),),
                    12,
                    ("HighAuthFailureRate",),
                ),
                Panel(
                    "Where credentials are refused",
                    "The ten routes with the most of them.",
                    "timeseries",
                    "reqps",
                    (
                        (
                            "topk(10, sum by (endpoint) (rate(auth_failures_total{SEL}[$__rate_interval])))",
                            "{{endpoint}}",
                        ),
                    ),
                    12,
                    ("HighAuthFailureRate",),
                ),
                Panel(
                    "Over a limit",
                    "Requests a second that a limit refused, by route.",
                    "timeseries",
                    "reqps",
                    (
                        (
                            "topk(10, sum by (endpoint) (rate(rate_limit_hits_total{SEL}[$__rate_interval])))",
                            "{{endpoint}}",
                        ),
                    ),
                    runbooks=("RateLimitAbuse",),
                ),
                Panel(
                    "Denied by policy",
                    "Decisions a second that denied, and those that denied since the policy failed.",
                    "timeseries",
                    "ops",
                    (
                        (
                            'sum by (error) (rate(relay_decisions_total{SEL,effect="deny"}[$__rate_interval]))',
                            "error: {{error}}",
                        ),
                    ),
                    runbooks=("PolicyErrors",),
                ),
                Panel(
                    "Webhooks without a right signature",
                    "Incoming webhooks a second that were refused.",
                    "timeseries",
                    "reqps",
                    (("sum(rate(relay_webhook_signature_refusals_total{SEL}[$__rate_interval]))", "refused"),),
                    runbooks=("WebhookSignatureRefusals",),
                ),
            ),
        ),
        Row(
            "Keys and secrets",
            (
                Panel(
                    "Keys",
                    "API keys that live, by kind.",
                    "timeseries",
                    "short",
                    (("max by (kind) (relay_keys{SEL})", "{{kind}}"),),
                ),
                Panel(
                    "Next end of a key",
                    "Time until the next key ends that has no successor.",
                    "stat",
                    "s",
                    (("max(relay_key_soonest_end_timestamp_seconds{SEL} > 0) - time()", "left"),),
                    runbooks=("KeyEndsSoon",),
                    steps=((None, "red"), (3 * 86_400, "orange"), (14 * 86_400, "green")),
                ),
                Panel(
                    "Age of secrets",
                    "Age of each secret, as a part of the period after which it should be rotated.",
                    "timeseries",
                    "percentunit",
                    (
                        (
                            "max by (secret) (relay_secret_age_seconds{SEL}) "
                            "/ (max by (secret) (relay_secret_period_seconds{SEL}) > 0)",
                            "{{secret}}",
                        ),
                    ),
                    runbooks=("SecretOverdue",),
                ),
            ),
        ),
    ),
)
