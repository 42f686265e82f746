"""Whether Relay works: what stands on the dashboard ``overview``."""

from typing import Final

from scripts.grafana.panels import GOOD_OR_BAD, GOOD_OR_ODD, QUEUE, Dashboard, Panel, Row, quantiles

OVERVIEW: Final = Dashboard(
    "relay-overview",
    "Relay / Overview",
    "Whether Relay works: instances, requests, latencies, the audit log and what waits.",
    (
        Row(
            "State",
            (
                Panel(
                    "Instances up",
                    "Instances that Prometheus can scrape, of those it should.",
                    "stat",
                    "short",
                    (("sum(up{SEL})", "up"), ("count(up{SEL})", "of")),
                    4,
                    ("InstanceDown", "RelayDown"),
                ),
                Panel(
                    "Processes",
                    "Server and worker processes behind these instances.",
                    "stat",
                    "short",
                    (("sum by (kind) (relay_processes{SEL})", "{{kind}}"),),
                    4,
                ),
                Panel(
                    "Version",
                    "Instances by the version that they run; more than one is a roll-out that has not ended.",
                    "table",
                    "short",
                    (("count by (version, python) (relay_build_info{SEL})", ""),),
                    4,
                ),
                Panel(
                    "Environment",
                    "Instances by their RELAY_ENV.",
                    "stat",
                    "short",
                    (("sum by (env) (relay_environment{SEL})", "{{env}}"),),
                    4,
                    ("WrongEnvironment",),
                ),
                Panel(
                    "Kill switches on",
                    "Kill switches that are on, by what they stop.",
                    "stat",
                    "short",
                    (("sum(max by (scope) (relay_kill_switch_on{SEL}))", "on"),),
                    4,
                    ("KillSwitchOn",),
                    GOOD_OR_ODD,
                ),
                Panel(
                    "Limits fall back",
                    "Instances whose Redis does not answer, so that stricter limits are counted in process.",
                    "stat",
                    "short",
                    (("sum(relay_limiter_fallback{SEL})", "instances"),),
                    4,
                    ("LimiterFallback",),
                    GOOD_OR_BAD,
                ),
            ),
        ),
        Row(
            "Requests",
            (
                Panel(
                    "Requests",
                    "Requests a second, by the class of the answer's status.",
                    "timeseries",
                    "reqps",
                    (("sum by (status) (rate(relay_http_requests_total{SEL}[$__rate_interval]))", "{{status}}"),),
                ),
                Panel(
                    "Errors",
                    "Part of the requests that Relay itself could not answer: 5xx without 502 and 504, which tell of a "
                    "destination.",
                    "timeseries",
                    "percentunit",
                    (
                        (
                            '(sum(rate(relay_http_requests_total{SEL,status="5xx"}[$__rate_interval])) '
                            "- sum(rate(relay_http_destination_errors_total{SEL}[$__rate_interval]))) "
                            "/ sum(rate(relay_http_requests_total{SEL}[$__rate_interval]))",
                            "errors",
                        ),
                    ),
                    runbooks=("ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"),
                ),
                Panel(
                    "Latency",
                    "Time from the head of a request to the end of its answer, event streams left out.",
                    "timeseries",
                    "s",
                    quantiles("relay_http_request_duration_seconds"),
                    runbooks=("LatencyHigh",),
                ),
                Panel(
                    "Busiest routes",
                    "The ten routes with the most requests a second.",
                    "timeseries",
                    "reqps",
                    (
                        (
                            "topk(10, sum by (route) (rate(relay_http_requests_total{SEL}[$__rate_interval])))",
                            "{{route}}",
                        ),
                    ),
                    12,
                ),
                Panel(
                    "Slowest routes",
                    "The ten routes whose 99th percentile is the highest.",
                    "timeseries",
                    "s",
                    (
                        (
                            "topk(10, histogram_quantile(0.99, sum by (le, route) "
                            "(rate(relay_http_request_duration_seconds_bucket{SEL}[$__rate_interval]))))",
                            "{{route}}",
                        ),
                    ),
                    12,
                    ("LatencyHigh",),
                ),
            ),
        ),
        Row(
            "Audit log",
            (
                Panel(
                    "Commits",
                    "Time of one durable commit; every request that changes something waits for one.",
                    "timeseries",
                    "s",
                    quantiles("relay_audit_commit_seconds"),
                    runbooks=("AuditCommitSlow",),
                ),
                Panel(
                    "Units in one commit",
                    "How many waiting requests share one commit.",
                    "timeseries",
                    "short",
                    (
                        (
                            "sum(rate(relay_audit_batch_size_sum{SEL}[$__rate_interval])) "
                            "/ sum(rate(relay_audit_batch_size_count{SEL}[$__rate_interval]))",
                            "mean",
                        ),
                    ),
                ),
                Panel(
                    "Events",
                    "Audit events recorded a second.",
                    "timeseries",
                    "ops",
                    (("sum(rate(relay_audit_events_total{SEL}[$__rate_interval]))", "events"),),
                    runbooks=("AuditSilence",),
                ),
                Panel(
                    "Write errors",
                    "Transactions in the chosen time that could not be committed. Nothing of them has happened.",
                    "stat",
                    "short",
                    (("sum(increase(relay_audit_write_errors_total{SEL}[$__range]))", "errors"),),
                    6,
                    ("AuditWriteErrors",),
                    GOOD_OR_BAD,
                ),
                Panel(
                    "Size",
                    "Number of events in the log.",
                    "stat",
                    "short",
                    (("max(relay_audit_size{SEL})", "events"),),
                    6,
                ),
                Panel(
                    "Since the last event",
                    "Time since the newest event occurred.",
                    "stat",
                    "s",
                    (("time() - max(relay_audit_last_event_timestamp_seconds{SEL})", "since"),),
                    6,
                    ("AuditSilence",),
                ),
                Panel(
                    "Since the last verification",
                    "Time since a process last verified the log without finding.",
                    "stat",
                    "s",
                    (
                        (
                            "time() - max(relay_audit_last_verified_timestamp_seconds{SEL} > 0)",
                            "since",
                        ),
                    ),
                    6,
                    ("AuditVerificationOverdue",),
                ),
            ),
        ),
        Row(
            "What waits",
            (
                *QUEUE,
                Panel(
                    "Approvals",
                    "Requests that wait for a person.",
                    "timeseries",
                    "short",
                    (("max(relay_approvals_waiting{SEL})", "waiting"),),
                    runbooks=("ApprovalsWaiting",),
                ),
            ),
        ),
        Row(
            "Relay itself",
            (
                Panel(
                    "Checks that fail",
                    "Checks of `relay doctor` that fail; the log says what and how to mend it.",
                    "table",
                    "short",
                    (("max by (check) (relay_doctor_failing{SEL}) > 0", ""),),
                    12,
                    ("DoctorFailing",),
                ),
                Panel(
                    "Metrics that are missing",
                    "What is read from the database at a scrape and could not be, and events that no series takes.",
                    "stat",
                    "short",
                    (
                        ("count(relay_metrics_source_up{SEL} == 0) or vector(0)", "sources away"),
                        ("sum(increase(relay_metrics_undeclared_total{SEL}[$__range]))", "not declared"),
                    ),
                    12,
                    ("MetricsMissing",),
                    GOOD_OR_BAD,
                ),
            ),
        ),
    ),
)
