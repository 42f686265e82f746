"""What models cost: the table that comes with the library genai-prices, and the operator's own prices before it.

The table is that of the installed version; nothing updates it over the network. Money is whole billionths of a US
dollar, rounded up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice as TableEntry

BILLIONTHS: Final = 1_000_000_000
_MILLION: Final = 1_000_000


class Price(Protocol):
    """What one model costs."""

    @property
    def free(self) -> bool:
        """Whether it costs nothing whatsoever."""
        ...

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """Return billionths of a US dollar; more tokens never cost less."""
        ...


@dataclass(frozen=True, slots=True)
class GivenPrice:
    """A price of the settings, in US dollars for a million tokens in and out."""

    given: Decimal
    made: Decimal

    @property
    def free(self) -> bool:
        return not self.given and not self.made

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        return to_billionths((self.given * input_tokens + self.made * output_tokens) / _MILLION)


@dataclass(frozen=True, slots=True)
class TablePrice:
    """A price of the table, which may have steps. What is read from a vendor's cache counts in full."""

    entry: "TableEntry"

    @property
    def free(self) -> bool:
        return self.cost(_MILLION, _MILLION) == 0

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        from genai_prices import Usage

        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        return to_billionths(self.entry.calc_price(usage)["total_price"])


def to_billionths(dollars: Decimal) -> int:
    """Return an amount of US dollars in billionths, rounded up."""
    return int((dollars * BILLIONTHS).to_integral_value(ROUND_CEILING))


def price_of(
    name: str, model: str, base_url: str, vendor: str, given: Iterable[tuple[str, Decimal, Decimal]]
) -> Price | None:
    """Return the price of a model, None where nobody has said one.

    The settings come first, by the model's name with or without its vendor; then the table's price of whoever is at
    ``base_url``; then, for a place that the table does not know, that of the vendor whose interface it speaks.
    """
    for priced, into, out in given:
        if priced in (name, model):
            return GivenPrice(into, out)
    return _in_table(model, base_url, vendor)


def _in_table(model: str, base_url: str, vendor: str) -> TablePrice | None:
    from datetime import UTC, datetime

    from genai_prices.data_snapshot import get_snapshot

    table = get_snapshot()
    for provider, url in ((None, base_url), (vendor, None)):
        try:
            _, info = table.find_provider_model(model, None, provider, url)
        except LookupError:
            continue
        entry = info.get_prices(datetime.now(UTC))
        # What is listed for other things than text in and text out has no price that would say anything here.
        if getattr(entry, "input_mtok", None) is not None and getattr(entry, "output_mtok", None) is not None:
            return TablePrice(entry)
    return None
