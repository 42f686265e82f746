"""What is talked about and what it costs: what stands on the dashboard ``chat``."""

from typing import Final

from scripts.grafana.panels import GOOD_OR_ODD, Dashboard, Panel, Row, quantiles

CHAT: Final = Dashboard(
    "relay-chat",
    "Relay / Models and chat",
    "Whether models answer, how long they take and what they cost, and what conversations come to.",
    (
        Row(
            "Models",
            (
                Panel(
                    "Requests",
                    "Requests to language models a second, by what became of them.",
                    "timeseries",
                    "ops",
                    (("sum by (outcome) (rate(relay_model_requests_total{SEL}[$__rate_interval]))", "{{outcome}}"),),
                    runbooks=("ModelUnavailable", "ModelFailing"),
                ),
                Panel(
                    "Time of an answer",
                    "From a request to the end of its answer, or to its failure.",
                    "timeseries",
                    "s",
                    quantiles("relay_model_request_duration_seconds"),
                ),
                Panel(
                    "First piece",
                    "From a request to the first piece of a streamed answer's text.",
                    "timeseries",
                    "s",
                    quantiles("relay_model_first_piece_seconds"),
                ),
                Panel(
                    "Breakers",
                    "0 is closed, 1 tries one question, 2 is open: the model is left alone for a while.",
                    "timeseries",
                    "short",
                    (("max by (model) (relay_model_breaker{SEL})", "{{model}}"),),
                    runbooks=("ModelUnavailable",),
                ),
                Panel(
                    "Waited for",
                    "Answers of language models that are waited for at once.",
                    "timeseries",
                    "short",
                    (("sum(relay_model_in_flight{SEL})", "answers"),),
                ),
                Panel(
                    "Repeated",
                    "Requests in each interval that were repeated, since nothing of an answer had come.",
                    "bars",
                    "short",
                    (("sum by (model) (increase(relay_model_retries_total{SEL}[$__rate_interval]))", "{{model}}"),),
                    runbooks=("ModelFailing",),
                ),
            ),
        ),
        Row(
            "Spending",
            (
                Panel(
                    "Cost",
                    "What models cost in the chosen time, as budgets count it.",
                    "stat",
                    "currencyUSD",
                    (("sum(increase(relay_model_cost_dollars_total{SEL}[$__range]))", "cost"),),
                    runbooks=("ModelSpendingHigh",),
                ),
                Panel(
                    "Cost in an hour",
                    "What models have cost within the last hour, by model.",
                    "timeseries",
                    "currencyUSD",
                    (("sum by (model) (increase(relay_model_cost_dollars_total{SEL}[1h]))", "{{model}}"),),
                    runbooks=("ModelSpendingHigh",),
                ),
                Panel(
                    "Tokens",
                    "Tokens a second that models have read and written.",
                    "timeseries",
                    "ops",
                    (("sum by (direction) (rate(relay_model_tokens_total{SEL}[$__rate_interval]))", "{{direction}}"),),
                ),
                Panel(
                    "Refused by budgets",
                    "Questions in the chosen time that were not asked, since a budget had too little left.",
                    "stat",
                    "short",
                    (("sum by (budget) (increase(relay_model_budget_refusals_total{SEL}[$__range]))", "{{budget}}"),),
                    runbooks=("ModelBudgetRefusals",),
                    steps=GOOD_OR_ODD,
                ),
            ),
        ),
        Row(
            "Conversations",
            (
                Panel(
                    "Ends of turns",
                    "Chat turns in each interval that came to an end, by how.",
                    "bars",
                    "short",
                    (("sum by (outcome) (increase(relay_chat_turns_total{SEL}[$__rate_interval]))", "{{outcome}}"),),
                    runbooks=("ChatTurnsFailing",),
                ),
                Panel(
                    "Time of a turn",
                    "How long a chat turn was worked on; the wait for an approval is left out.",
                    "timeseries",
                    "s",
                    quantiles("relay_chat_turn_duration_seconds"),
                ),
                Panel(
                    "Calls",
                    "Actions that conversations asked for and that came to an end in each interval, by how.",
                    "bars",
                    "short",
                    (("sum by (status) (increase(relay_chat_calls_total{SEL}[$__rate_interval]))", "{{status}}"),),
                ),
                Panel(
                    "Turns under way",
                    "Chat turns that have not ended, by state.",
                    "timeseries",
                    "short",
                    (("max by (state) (relay_chat_turns_open{SEL})", "{{state}}"),),
                ),
                Panel(
                    "Wait for an approval",
                    "How long conversations waited for a decision, or were held back.",
                    "timeseries",
                    "s",
                    quantiles("relay_chat_wait_seconds"),
                ),
                Panel(
                    "Turns that went on",
                    "After a decision, or with another process than before.",
                    "bars",
                    "short",
                    (("sum by (cause) (increase(relay_chat_resumed_total{SEL}[$__rate_interval]))", "{{cause}}"),),
                ),
                Panel(
                    "Turns that nobody works on",
                    "For how long the oldest of them has had no process.",
                    "stat",
                    "s",
                    (("max(relay_chat_abandoned_seconds{SEL})", "oldest"),),
                    runbooks=("ChatTurnsStuck",),
                    steps=((None, "green"), (60, "red")),
                ),
                Panel(
                    "Sessions",
                    "Chat sessions that are kept.",
                    "stat",
                    "short",
                    (("max(relay_chat_sessions{SEL})", "sessions"),),
                ),
                Panel(
                    "Open streams",
                    "Event streams of chats that are open.",
                    "timeseries",
                    "short",
                    (("sum(relay_chat_streams{SEL})", "streams"),),
                ),
            ),
        ),
    ),
)
