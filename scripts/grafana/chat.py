"""What is talked about and what it costs: what stands on the dashboard ``chat``."""

from typing import Final

from scripts.grafana.panels import GOOD_OR_ODD, Dashboard, Panel, Row, quantiles

CHAT: Final = Dashboard(
    "relay-chat",
    "Relay / Models and chat",
    "Whether models answer, how long they take and what they cost, and what conversations come to.",
    (
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
                    (("max by (state) (relay_chat_turns{SEL})", "{{state}}"),),
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
