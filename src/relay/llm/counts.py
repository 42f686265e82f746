"""What metrics say about models."""

from typing import Final

from relay.llm.breaker import State
from relay.llm.choice import Label
from relay.llm.messages import Usage
from relay.llm.prices import BILLIONTHS
from relay.telemetry.metrics import Metrics

_STATES: Final[tuple[State, ...]] = ("closed", "half_open", "open")


class Counts:
    """The ``relay_model_*`` metrics of a process."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter("relay_model_requests_total")
        self._seconds = metrics.histogram("relay_model_request_duration_seconds")
        self._first = metrics.histogram("relay_model_first_piece_seconds")
        self._tokens = metrics.counter("relay_model_tokens_total")
        self._cost = metrics.counter("relay_model_cost_dollars_total")
        self._retries = metrics.counter("relay_model_retries_total")
        self._refusals = metrics.counter("relay_model_budget_refusals_total")
        self._in_flight = metrics.gauge("relay_model_in_flight")
        self._breaker = metrics.gauge("relay_model_breaker")

    def in_flight(self, number: int) -> None:
        """So many answers are waited for."""
        self._in_flight.set(float(number))

    def breaker(self, label: Label, state: State) -> None:
        """A model's breaker is in this state."""
        self._breaker.set(float(_STATES.index(state)), label)

    def asked(self, label: Label, outcome: str, seconds: float) -> None:
        """A model was asked once; ``outcome`` is ``answered``, ``cancelled`` or why there is no answer."""
        self._requests.add(label, outcome)
        self._seconds.observe(seconds, label)

    def first_piece(self, label: Label, seconds: float) -> None:
        """The first piece of an answer has come."""
        self._first.observe(seconds, label)

    def retried(self, label: Label) -> None:
        """A model is asked again."""
        self._retries.add(label)

    def took(self, label: Label, usage: Usage) -> None:
        """A question has taken this, and may have had no answer all the same."""
        self._tokens.add(label, "in", amount=float(usage.input_tokens))
        self._tokens.add(label, "out", amount=float(usage.output_tokens))
        self._cost.add(label, amount=usage.cost / BILLIONTHS)

    def refused(self, budget: str) -> None:
        """A question was refused since a budget has too little left."""
        self._refusals.add(budget)
