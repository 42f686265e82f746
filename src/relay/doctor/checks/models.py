"""What models are told and cost, and who may talk to them."""

from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from relay.doctor.check import Unseen, some
from relay.doctor.facts import Facts
from relay.settings import Settings
from relay.settings.parse import is_loopback_host

_PLACES: Final = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_BASE_URL")
_BUDGETS: Final = ("AI_DAILY_BUDGET_USD", "CHAT_SESSION_BUDGET_USD")
_TIMES_DEFAULT: Final = 100


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
    """Budgets let models be asked, and end somewhere."""
    settings = facts.settings
    if settings.model_name is None:
        raise Unseen("no model is configured")
    amounts: dict[str, Decimal] = {name: getattr(settings, name.lower()) for name in _BUDGETS}
    none = [name for name, amount in amounts.items() if not amount]
    if none and not _costs_nothing(settings):
        return f"nothing may be spent, so that no model is asked that costs anything: {some(none)}"
    fields = type(settings).model_fields
    high = [
        f"{name} (default {fields[name.lower()].default})"
        for name, amount in amounts.items()
        if amount > _TIMES_DEFAULT * fields[name.lower()].default
    ]
    return f"more than {_TIMES_DEFAULT} times the default: {some(high)}" if high else None


def _costs_nothing(settings: Settings) -> bool:
    free = {name for name, asked, answered in settings.ai_prices if not asked and not answered}
    return {settings.model_name, settings.ai_fallback_model} - {None} <= free


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
