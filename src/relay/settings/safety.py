"""Settings that are each valid and together unsafe: what start-up refuses, and what it says aloud."""

from urllib.parse import urlsplit

from relay.core.clock import now
from relay.settings.keys import missing_keys
from relay.settings.misspelt import IGNORED
from relay.settings.model import Settings
from relay.settings.parse import is_loopback_host
from relay.settings.secret_text import WEBHOOK_PREFIX


def refusals(settings: Settings) -> list[str]:
    """Return why Relay must not start with these settings, one sentence each; empty when it may.

    The last one is :func:`ignored_names`, where there are any: a slip may be why something is missing.
    """
    open_doors = {
        "DEV_AUTH_MODE=true lets anyone in without a credential": settings.dev_auth_mode,
        "WEBHOOK_ALLOW_UNSIGNED=true believes webhooks of anyone": settings.webhook_allow_unsigned,
        "CHAT_PILOT_MODE=true lets anyone chat without a credential": settings.chat_pilot_mode,
    }
    unmet = _development_unmet(settings) if any(open_doors.values()) else []
    development = [f"{door}, so {reason}" for door, is_open in open_doors.items() if is_open for reason in unmet]
    found = [*development, *_nobody_works(settings), *missing_keys(settings)]
    told = ignored_names(settings)
    return [*found, told] if found and told is not None else found


def ignored_names(settings: Settings) -> str | None:
    """Return the sentence about names that were meant for Relay and are no settings, if there are any."""
    return next((told for told in settings.warnings if told.startswith(IGNORED)), None)


def warnings(settings: Settings) -> list[str]:
    """Return what an operator should know at start, one sentence each, ``settings.warnings`` included.

    A public bind without ``RELAY_PUBLIC_URL`` is a warning, not a refusal: in a container 0.0.0.0 is the only
    useful bind, every route still wants a credential, and the missing URL only makes links and checks weaker.
    """
    found = list(settings.warnings)
    if settings.dev_auth_mode:
        found.append("DEV_AUTH_MODE=true: requests from this machine need no credential")
    if settings.webhook_allow_unsigned:
        found.append("WEBHOOK_ALLOW_UNSIGNED=true: webhooks from this machine need no signature")
    if settings.chat_pilot_mode:
        found.append("CHAT_PILOT_MODE=true: the chat needs no credential from this machine")
    secret, legacy_end = settings.webhook_signing_secret, settings.webhook_legacy_end
    if secret is not None and not secret.get_secret_value().startswith(WEBHOOK_PREFIX) and (legacy_end or 0) <= now():
        found.append("WEBHOOK_LEGACY_UNTIL has passed: /webhooks/relay refuses everything until it has a whsec_ secret")
    if settings.env == "production" and not settings.loopback_bind and settings.public_url is None:
        found.append(
            f"Relay listens on {settings.host}, beyond this machine, and RELAY_PUBLIC_URL is not set: "
            "set it to the https:// address that callers use"
        )
    if _public(settings.public_url) and str(settings.public_url).startswith("http://"):
        found.append("RELAY_PUBLIC_URL begins with http://: API keys would cross the network in the clear")
    if (
        _public(settings.public_url)
        and str(settings.public_url).startswith("https://")
        and not settings.trusted_proxies
    ):
        found.append(
            "RELAY_PUBLIC_URL begins with https:// and TRUSTED_PROXIES is not set: nothing can say that a request came "
            "over HTTPS, so all but those of this machine are refused"
        )
    if settings.model_name is None and (told := _models_told(settings)):
        found.append(f"AI_MODEL is not set: no model is asked until it names one, whatever {', '.join(told)} says")
    if settings.shared_database and settings.redis_url is None:
        found.append("REDIS_URL is not set: each process counts rate limits for itself")
    return found


def _models_told(settings: Settings) -> list[str]:
    told = {
        "OPENAI_BASE_URL": settings.openai_base_url,
        "ANTHROPIC_API_KEY": settings.anthropic_api_key,
        "ANTHROPIC_BASE_URL": settings.anthropic_base_url,
        "GOOGLE_API_KEY": settings.google_api_key,
        "GOOGLE_BASE_URL": settings.google_base_url,
    }
    return [name for name, value in told.items() if value is not None]


def _nobody_works(settings: Settings) -> list[str]:
    if settings.work_in_server or settings.shared_database:
        return []
    return [
        "WORK_IN_SERVER=false leaves the work to `relay worker`, which needs PostgreSQL; "
        "with SQLite leave it at true, since `relay serve` is the only process"
    ]


def _development_unmet(settings: Settings) -> list[str]:
    unmet = []
    if settings.env != "local":
        unmet.append(f"RELAY_ENV must be local; it is {settings.env}")
    if not settings.loopback_bind:
        unmet.append(f"RELAY_HOST must be a loopback address; it is {settings.host}")
    if settings.trusted_proxies:
        unmet.append("TRUSTED_PROXIES must not be set: behind a proxy every caller looks local")
    if _public(settings.public_url):
        unmet.append("RELAY_PUBLIC_URL must not be set to a public address")
    return unmet


def _public(url: str | None) -> bool:
    return url is not None and not is_loopback_host(urlsplit(url).hostname or "")
