"""The budgets that questions to models are paid from: booked at their greatest price before they are sent.

What an answer took less is given back once the service has said what it took. Whatever ends in between, a crash too,
leaves the greatest price booked: a budget can be short of what is left, never beyond its limit on account of it.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from relay.core.clock import DAY, HOUR, MICROSECONDS, end_of_day, now
from relay.core.problem import SpendingExhausted
from relay.llm.messages import Payer
from relay.llm.prices import to_billionths
from relay.settings import Settings
from relay.store.database import Database
from relay.store.spending import Pot, Spending
from relay.store.writer import Tx

_KEPT: Final = 2 * DAY


@dataclass(frozen=True, slots=True)
class Booking:
    """What is booked for one question, and from where."""

    workspace_id: str
    pots: tuple[Pot, ...]
    amount: int

    def settle(self, tx: Tx, actual: int) -> None:
        """Make the booked price the actual one, in a unit of the caller's."""
        if actual != self.amount:
            Spending(self.workspace_id).correct(tx, self.pots, actual - self.amount)


class SpendingBook:
    """Books on the budgets of a day and of a session."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self.daily: Final = to_billionths(settings.ai_daily_budget_usd)
        self.per_session: Final = to_billionths(settings.chat_session_budget_usd)
        self._session_life = settings.chat_session_hours * HOUR

    async def book(self, payer: Payer, amount: int) -> Booking | None:
        """Book ``amount`` on every budget of the payer, or on none; nothing is written where nothing is spent.

        :class:`~relay.core.problem.SpendingExhausted` when a budget has less left. However many processes book at
        once, none of them goes beyond a limit.
        """
        if amount <= 0:
            return None
        pots = self._pots(payer)
        spending = Spending(payer.workspace_id)

        def unit(tx: Tx) -> None:
            if (empty := spending.short(tx, pots, amount)) is not None:
                raise _exhausted(empty, payer)
            spending.book(tx, pots, amount)

        await self._database.writer.run(unit)
        return Booking(payer.workspace_id, pots, amount)

    def _pots(self, payer: Payer) -> tuple[Pot, ...]:
        day = _today()
        pots = [Pot(payer.account, day.isoformat(), self.daily, end_of_day(day) + _KEPT)]
        if payer.session is not None:  # one for all who speak in it: a rotated key goes on with the same session
            pots.append(Pot(payer.session, payer.session, self.per_session, now() + self._session_life + _KEPT))
        return tuple(pots)


def _today() -> date:
    return datetime.fromtimestamp(now() / MICROSECONDS, UTC).date()


def _exhausted(pot: Pot, payer: Payer) -> SpendingExhausted:
    if pot.scope == payer.session:
        return SpendingExhausted("This session has too little left of what models may cost it.", budget="session")
    left = end_of_day(_today()) - now()
    seconds = max(1, -(-left // MICROSECONDS))
    return SpendingExhausted(
        "You have too little left of what models may cost you today.",
        headers={"Retry-After": str(seconds)},
        budget="day",
        retry_after=seconds,
    )
