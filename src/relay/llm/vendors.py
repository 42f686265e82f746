"""The libraries of the vendors, told everything and left to look nothing up. Imported when a model is first needed.

They read keys, organisations, projects, proxies, log levels and headers from the environment. What Relay's settings do
not say is given here as "nothing", and :mod:`relay.egress.model` lets nothing else out.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from openai import AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from relay.egress.model import ModelClient, Place, model_client
from relay.llm.choice import HEADERS, Choice
from relay.llm.compatible import CompatibleModel

NO_KEY: Final = "none"
"""What the libraries are given where the service wants no key; it never leaves, as the guard of egress sees to."""

_LOGGERS: Final = ("openai", "anthropic", "google_genai", "httpx", "httpx2", "httpcore", "httpcore2", "pydantic_ai")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be asked, and how to close its connections."""

    model: Model
    close: Callable[[], Awaitable[None]]


def load(choice: Choice, *, connections: int) -> Loaded:
    """Return the model of a choice; importing its library takes a second or two."""
    client = model_client(Place(choice.base_url, HEADERS[choice.vendor], choice.key), connections=connections)
    key = NO_KEY if choice.key is None else choice.key.get_secret_value()
    makers = {"openai": _openai, "anthropic": _anthropic, "google": _google}
    model = makers[choice.vendor](choice, key, client)
    # At their lower levels they write whole conversations into the log.
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    return Loaded(model, client.aclose)


def _openai(choice: Choice, key: str, client: ModelClient) -> Model:
    sdk = AsyncOpenAI(
        api_key=key, organization="", project="", base_url=choice.base_url, http_client=client, max_retries=0
    )
    profile = OpenAIModelProfile(
        # A stream that ends without one has been cut off, and half a call is no call.
        openai_chat_streaming_requires_finish_reason=True,
        openai_supports_strict_tool_definition=False,
        openai_chat_supports_allowed_tools=False,
        # OpenAI's own take only the one name for it, most others know only the other.
        openai_chat_supports_max_completion_tokens=choice.is_openai,
        openai_chat_supports_multiple_system_messages=False,
        openai_system_prompt_role="system",
    )
    provider = OpenAIProvider(openai_client=sdk) if choice.is_openai else _compatible(sdk)
    return CompatibleModel(choice.model, provider=provider, profile=profile)


def _compatible(sdk: AsyncOpenAI) -> OpenAICompatibleProvider:
    return OpenAICompatibleProvider("compatible", openai_client=sdk)


def _anthropic(choice: Choice, key: str, client: ModelClient) -> Model:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    sdk = AsyncAnthropic(api_key=key, base_url=choice.base_url, http_client=client, max_retries=0)
    return AnthropicModel(choice.model, provider=AnthropicProvider(anthropic_client=sdk))


def _google(choice: Choice, key: str, client: ModelClient) -> Model:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    provider = GoogleProvider(api_key=key, base_url=choice.base_url, http_client=client)
    return GoogleModel(choice.model, provider=provider)
