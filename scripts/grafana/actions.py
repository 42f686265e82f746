"""What actions come to: what stands on the dashboard ``actions``."""

from typing import Final

from scripts.grafana.panels import GOOD_OR_BAD, QUEUE, Dashboard, Panel, Row, quantiles

ACTIONS: Final = Dashboard(
    "relay-actions",
    "Relay / Actions",
    "What actions come to, how long they take, what policy says of them, runs and plans.",
    (
        Row(
            "Attempts",
            (
                Panel(
                    "Outcomes",
                    "Attempts a second that came to an end, by outcome.",
                    "timeseries",
                    "ops",
                    (("sum by (outcome) (rate(relay_attempts_total{SEL}[$__rate_interval]))", "{{outcome}}"),),
                ),
                Panel(
                    "By action",
                    "Attempts a second that came to an end, by action.",
                    "timeseries",
                    "ops",
                    (("sum by (action) (rate(relay_attempts_total{SEL}[$__rate_interval]))", "{{action}}"),),
                ),
                Panel(
                    "Failing",
                    "Part of the attempts of an action that failed or whose outcome nobody knows.",
                    "timeseries",
                    "percentunit",
                    (
                        (
                            'sum by (action) (rate(relay_attempts_total{SEL,outcome=~"failed|unknown"}'
                            "[$__rate_interval])) / sum by (action) (rate(relay_attempts_total"
                            '{SEL,outcome=~"succeeded|failed|unknown"}[$__rate_interval]))',
                            "{{action}}",
                        ),
                    ),
                    runbooks=("ActionsFailing",),
                ),
                Panel(
                    "Unknown outcomes",
                    "Attempts in the chosen time of which nobody knows whether they happened; look at each.",
                    "stat",
                    "short",
                    (('sum(increase(relay_attempts_total{SEL,outcome="unknown"}[$__range]))', "unknown"),),
                    8,
                    ("UnknownOutcome",),
                    GOOD_OR_BAD,
                ),
                Panel(
                    "Time of an effect",
                    "How long the effects of all actions took.",
                    "timeseries",
                    "s",
                    quantiles("relay_attempt_duration_seconds"),
                ),
                Panel(
                    "Time of an effect, by action",
                    "The 99th percentile for each action.",
                    "timeseries",
                    "s",
                    quantiles("relay_attempt_duration_seconds", "action"),
                ),
            ),
        ),
        Row(
            "Decisions and approvals",
            (
                Panel(
                    "Decisions",
                    "Decisions of policies a second, by effect.",
                    "timeseries",
                    "ops",
                    (("sum by (effect) (rate(relay_decisions_total{SEL}[$__rate_interval]))", "{{effect}}"),),
                ),
                Panel(
                    "Waiting for approval",
                    "Requests that wait for a person.",
                    "timeseries",
                    "short",
                    (("max(relay_approvals_waiting{SEL})", "waiting"),),
                    runbooks=("ApprovalsWaiting",),
                ),
                Panel(
                    "Oldest request for approval",
                    "For how long the oldest of them has waited.",
                    "timeseries",
                    "s",
                    (("max(relay_approvals_oldest_seconds{SEL})", "oldest"),),
                    runbooks=("ApprovalsWaiting",),
                ),
            ),
        ),
        Row(
            "Plans and runs",
            (
                Panel(
                    "Runs under way",
                    "Plan runs that have not ended, by state.",
                    "timeseries",
                    "short",
                    (("max by (state) (relay_runs{SEL})", "{{state}}"),),
                ),
                Panel(
                    "Ends of runs",
                    "Plan runs in each interval that came to an end, by how.",
                    "bars",
                    "short",
                    (("sum by (outcome) (increase(relay_runs_ended_total{SEL}[$__rate_interval]))", "{{outcome}}"),),
                ),
                Panel(
                    "Time of a plan",
                    "How long it takes to make a plan.",
                    "timeseries",
                    "s",
                    quantiles("relay_plan_duration_seconds"),
                ),
                *QUEUE,
            ),
        ),
    ),
)
