"""What is delivered and received: what stands on the dashboard ``webhooks``."""

from typing import Final

from scripts.grafana.panels import GOOD_OR_ODD, Dashboard, Panel, Row, quantiles

WEBHOOKS: Final = Dashboard(
    "relay-webhooks",
    "Relay / Webhooks",
    "Deliveries to endpoints, the endpoints' health, and what comes in.",
    (
        Row(
            "Out",
            (
                Panel(
                    "Deliveries",
                    "Attempts to deliver a second, by what they came to. What is dead was given up.",
                    "timeseries",
                    "ops",
                    (
                        (
                            "sum by (outcome) (rate(relay_webhook_deliveries_total{SEL}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                    ),
                    runbooks=("WebhookDeliveriesDead",),
                ),
                Panel(
                    "Part that is delivered",
                    "Attempts that were delivered, of all.",
                    "timeseries",
                    "percentunit",
                    (
                        (
                            'sum(rate(relay_webhook_deliveries_total{SEL,outcome="delivered"}[$__rate_interval])) '
                            "/ sum(rate(relay_webhook_deliveries_total{SEL}[$__rate_interval]))",
                            "delivered",
                        ),
                    ),
                ),
                Panel(
                    "Time of an attempt",
                    "How long an endpoint takes to answer.",
                    "timeseries",
                    "s",
                    quantiles("relay_webhook_delivery_duration_seconds"),
                ),
                Panel(
                    "Endpoints",
                    "Endpoints by state; a failing one has a delivery that failed and none that succeeded since.",
                    "timeseries",
                    "short",
                    (("max by (state) (relay_webhook_endpoints{SEL})", "{{state}}"),),
                    runbooks=("WebhookEndpointFailing",),
                ),
                Panel(
                    "Deliveries that are due",
                    "Deliveries that are due and that nobody sends.",
                    "timeseries",
                    "short",
                    (('max(relay_queue_depth{SEL,kind="delivery"})', "due"),),
                    runbooks=("QueueOverdue",),
                ),
                Panel(
                    "Given up",
                    "Deliveries in the chosen time that were given up; they can be made again.",
                    "stat",
                    "short",
                    (('sum(increase(relay_webhook_deliveries_total{SEL,outcome="dead"}[$__range]))', "dead"),),
                    8,
                    ("WebhookDeliveriesDead",),
                    GOOD_OR_ODD,
                ),
            ),
        ),
        Row(
            "In",
            (
                Panel(
                    "Received",
                    "Webhooks verified a second, copies apart.",
                    "timeseries",
                    "ops",
                    (
                        (
                            "sum by (duplicate) (rate(relay_webhooks_received_total{SEL}[$__rate_interval]))",
                            "duplicate: {{duplicate}}",
                        ),
                    ),
                    12,
                ),
                Panel(
                    "Without a right signature",
                    "Incoming webhooks a second that were refused.",
                    "timeseries",
                    "ops",
                    (("sum(rate(relay_webhook_signature_refusals_total{SEL}[$__rate_interval]))", "refused"),),
                    12,
                    ("WebhookSignatureRefusals",),
                ),
            ),
        ),
    ),
)
