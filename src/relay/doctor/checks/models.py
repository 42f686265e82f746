"""What models are told and cost, and who may talk to them."""

from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from relay.doctor.check import Unseen, some
from relay.doctor.facts import Facts
from relay.llm.choice import Choice, choices
from relay.llm.prices import BILLIONTHS, to_billionths
from relay.settings import Settings, SettingsError
from relay.settings.parse import is_loopback_host

_PLACES: Final = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_BASE_URL")
_BUDGETS: Final = ("AI_DAILY_BUDGET_USD", "CHAT_SESSION_BUDGET_USD")
_TIMES_DEFAULT: Final = 100
SMALL_QUESTION: Final = 4_000
"""How many tokens are booked for a question at least: instructions, a sentence, and a function or two."""


def pilot_mode(facts: Facts) -> str | None:
    """Nobody chats without a credential."""
    if not facts.settings.chat_pilot_mode:
        return None
    return "CHAT_PILOT_MODE=true: the chat needs no credential from this machine"


def chat_key(facts: Facts) -> str | None:
    """The one key that many hold proposes, and does not act."""
    settings = facts.settings
    if settings.chat_api_key is None or "actions:execute" not in settings.chat_scopes:
        return None
    return (
        "CHAT_SCOPES holds actions:execute: everybody who has the chat key acts as one principal of "
        f"{settings.chat_workspace}"
    )


def links(facts: Facts) -> str | None:
    """What models are asked crosses no network in the clear."""
    settings = facts.settings
    clear = []
    for name in _PLACES:
        url = urlsplit(getattr(settings, name.lower()) or "")
        if url.scheme == "http" and not is_loopback_host(url.hostname or ""):
            clear.append(name)
    return f"plain http beyond this machine: {some(clear)}" if clear else None


def budgets(facts: Facts) -> str | None:
    """Each budget holds at least the greatest price of a question that has no conversation behind it."""
    if not (found := _choices(facts.settings)):
        raise Unseen("no model is configured")
    tokens = facts.settings.ai_max_output_tokens
    short = []
    for name, amount in _amounts(facts.settings).items():
        costs = [(choice.price.cost(SMALL_QUESTION, tokens), choice.name) for choice in found]
        cost, model = max(costs)
        if to_billionths(amount) < cost:
            short.append(f"{name} is below the {_shown(cost)} that one question to {model} may cost")
    return f"nothing can be asked: {some(short)}" if short else None


def budget_sizes(facts: Facts) -> str | None:
    """Budgets end somewhere."""
    if facts.settings.model_name is None:
        raise Unseen("no model is configured")
    fields = type(facts.settings).model_fields
    high = [
        f"{name} (default {fields[name.lower()].default})"
        for name, amount in _amounts(facts.settings).items()
        if amount > _TIMES_DEFAULT * fields[name.lower()].default
    ]
    return f"more than {_TIMES_DEFAULT} times the default: {some(high)}" if high else None


def _amounts(settings: Settings) -> dict[str, Decimal]:
    return {name: getattr(settings, name.lower()) for name in _BUDGETS}


def _choices(settings: Settings) -> tuple[Choice, ...]:
    try:
        return choices(settings)
    except SettingsError as refused:
        raise Unseen(f"the settings name no model that can be asked ({refused.problems[0]})") from None


def _shown(billionths: int) -> str:
    return f"{Decimal(billionths) / BILLIONTHS:.4f} US dollars"


def link_hosts(facts: Facts) -> str | None:
    """Links and images of a model's words lead to hosts that somebody has named."""
    wide = [host for host in facts.settings.ai_link_hosts if host.startswith("*.")]
    if not wide:
        return None
    return f"AI_LINK_HOSTS holds {some(wide)}: whoever gets a host below it is sent what an address can carry"


def record(facts: Facts) -> str | None:
    """What is said to models is not kept for longer than it is needed."""
    settings = facts.settings
    if not settings.ai_record or settings.env != "production":
        return None
    return f"AI_RECORD=true in production: whole prompts and answers are kept for {settings.retention_days} days"
