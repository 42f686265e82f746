"""The settings of language models and of the chat."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from relay.settings import parse
from relay.settings.secret_text import Made, MadeElsewhere, generate_token, is_placeholder

DEFAULT_MODEL: Final = "gpt-5-mini"
CHAT_SCOPES: Final = ("chat", "actions:preview", "actions:execute")
"""All that a door without a personal credential can ever have."""

_MODEL: Final = re.compile(
    r"(?!(?:openai|anthropic|google):\Z)(?:(?:openai|anthropic|google):)?[A-Za-z0-9][A-Za-z0-9._/:@-]{0,127}", re.ASCII
)
_VENDOR_KEY: Final = re.compile(r"[!-~]{1,512}", re.ASCII)
_COMPLETIONS: Final = "/chat/completions"
_PRICE: Final = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._/:@-]{0,127})=([0-9]{1,6}(?:\.[0-9]{1,4})?)/([0-9]{1,6}(?:\.[0-9]{1,4})?)"
)
_DOLLARS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,4})?", re.ASCII)
_WORKSPACE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)

ModelPrice = tuple[str, Decimal, Decimal]


def _model(text: Any) -> str:
    if not _MODEL.fullmatch(text):
        raise ValueError("must be the name of a model, such as gpt-5-mini, or anthropic: or google: and one")
    return str(text)


def _base_url(example: str) -> Callable[[Any], str]:
    def parsed(text: Any) -> str:
        try:
            return parse.http_url(text)
        except ValueError:
            raise ValueError(f"must look like {example}, without credentials, query and fragment") from None

    return parsed


def _openai_base_url(text: Any) -> str:
    url = _base_url("http://127.0.0.1:11434/v1")(text)
    if url.lower().endswith(_COMPLETIONS):
        raise ValueError(f"must end before {_COMPLETIONS}, which Relay adds: http://127.0.0.1:11434/v1")
    return url


def _vendor_key(secret: Any) -> SecretStr:
    text = secret.get_secret_value()
    if is_placeholder(text):
        raise ValueError("is a placeholder; give a real one")
    if not _VENDOR_KEY.fullmatch(text):
        raise ValueError("must be one run of visible ASCII characters")
    return SecretStr(text)


def _dollars(text: Any) -> Decimal:
    if not _DOLLARS.fullmatch(text):
        raise ValueError("must be an amount in US dollars, such as 0.50")
    return Decimal(text)


def _prices(text: Any) -> tuple[ModelPrice, ...]:
    found = [_PRICE.fullmatch(entry) for entry in parse.entries(text)]
    prices = [(match[1], Decimal(match[2]), Decimal(match[3])) for match in found if match is not None]
    if len(prices) != len(found):
        raise ValueError("must look like my-model=0.25/2, US dollars for a million tokens in and out, comma-separated")
    if len({name for name, _, _ in prices}) != len(prices):
        raise ValueError("names a model twice")
    return tuple(prices)


def _workspace(text: Any) -> str:
    if not _WORKSPACE.fullmatch(text):
        raise ValueError("must be the id of a workspace: lower-case letters, digits and hyphens")
    return str(text)


def _chat_scopes(text: Any) -> tuple[str, ...]:
    asked = parse.entries(str(text).replace(" ", ","))
    if "chat" not in asked or not set(asked) <= set(CHAT_SCOPES):
        raise ValueError(f"must be chat, with any of {', '.join(CHAT_SCOPES[1:])}; nothing else can be given")
    return tuple(scope for scope in CHAT_SCOPES if scope in asked)


class AiSettings(BaseModel):
    """What :class:`~relay.settings.model.Settings` says about language models and the chat."""

    openai_api_key: Annotated[SecretStr | None, BeforeValidator(_vendor_key), MadeElsewhere()] = Field(
        default=None, description="Key of OpenAI, or of the compatible service that `OPENAI_BASE_URL` names."
    )
    openai_base_url: Annotated[str | None, BeforeValidator(_openai_base_url)] = Field(
        default=None,
        json_schema_extra={"shown_default": "that of OpenAI"},
        description="Where a service is that speaks OpenAI's chat completions: Azure, vLLM, Ollama, llama.cpp, … for "
        "instance `http://127.0.0.1:11434/v1`. See [models](models.md).",
    )
    anthropic_api_key: Annotated[SecretStr | None, BeforeValidator(_vendor_key), MadeElsewhere()] = Field(
        default=None, description="Key of Anthropic, for models `anthropic:…`; needs the extra `anthropic`."
    )
    anthropic_base_url: Annotated[str | None, BeforeValidator(_base_url("https://models.example.com"))] = Field(
        default=None,
        json_schema_extra={"shown_default": "that of Anthropic"},
        description="Another place where Anthropic's interface is spoken.",
    )
    google_api_key: Annotated[SecretStr | None, BeforeValidator(_vendor_key), MadeElsewhere()] = Field(
        default=None, description="Key of Google's Gemini interface, for models `google:…`; needs the extra `google`."
    )
    google_base_url: Annotated[str | None, BeforeValidator(_base_url("https://models.example.com"))] = Field(
        default=None,
        json_schema_extra={"shown_default": "that of Google"},
        description="Another place where Google's interface is spoken.",
    )
    ai_model: Annotated[str | None, BeforeValidator(_model)] = Field(
        default=None,
        json_schema_extra={"shown_default": f"`{DEFAULT_MODEL}` where `OPENAI_API_KEY` is set, else none"},
        description="The model that plans and chats: a name of `OPENAI_BASE_URL`'s service, or `anthropic:…`, "
        "`google:…`. Without one the local planner does both.",
    )
    ai_fallback_model: Annotated[str | None, BeforeValidator(_model)] = Field(
        default=None, description="The model that is asked where `AI_MODEL` does not answer."
    )
    ai_fallback_local: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=False, description="Whether the local planner plans where no model answers; else that is a 503."
    )
    ai_prices: Annotated[tuple[ModelPrice, ...], BeforeValidator(_prices)] = Field(
        default=(),
        json_schema_extra={"shown_default": "the table that comes with Relay"},
        description="Prices in US dollars for a million tokens, in and out: `my-model=0.25/2`, comma-separated. A "
        "model that the table does not know needs one, `0/0` where it costs nothing.",
    )
    ai_timeout_seconds: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=60, ge=1, le=600, description="How long one answer of a model may take as a whole."
    )
    ai_idle_seconds: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=20, ge=1, le=600, description="How long a model may be silent within an answer."
    )
    ai_retries: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=2, ge=0, le=5, description="How many more times a model is asked that was too busy or gave no answer."
    )
    ai_concurrency: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=100, ge=1, le=1000, description="How many answers of models one process may wait for at once."
    )
    ai_max_output_tokens: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=2048, ge=16, le=65_536, description="The longest answer of a model, in tokens."
    )
    ai_context_tokens: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=16_000,
        ge=1_000,
        le=1_000_000,
        description="How much of a conversation a model is given, in tokens; older turns are left out as a whole.",
    )
    ai_link_hosts: Annotated[tuple[str, ...], BeforeValidator(parse.domains)] = Field(
        default=(),
        description="Hosts to which links and images in a model's words stay as they are, comma-separated; "
        "`*.example.com` for everything below it. All others are made harmless.",
    )
    ai_record: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=False,
        description="Whether what models were asked and what they answered is kept, sealed, for `RETENTION_DAYS`; "
        "their digests are recorded always.",
    )
    ai_daily_budget_usd: Annotated[Decimal, BeforeValidator(_dollars)] = Field(
        default=Decimal("2"),
        json_schema_extra={"shown_default": "`2`"},
        description="What the models that one principal asks may cost in a UTC day, in US dollars; child tokens count "
        "as their parent.",
    )
    chat_session_budget_usd: Annotated[Decimal, BeforeValidator(_dollars)] = Field(
        default=Decimal("0.50"),
        json_schema_extra={"shown_default": "`0.50`"},
        description="What the models that one chat session asks may cost, in US dollars.",
    )
    chat_session_hours: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=168, ge=1, le=8760, description="For how many hours after its last message a chat session is kept."
    )
    chat_sessions_per_principal: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=1000, ge=1, le=1_000_000, description="How many chat sessions of one principal are kept at once."
    )
    chat_stored_mib_per_principal: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="How much the chat sessions of one principal may hold together, in MiB, pictures included.",
    )
    chat_calls_per_turn: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=16, ge=1, le=100, description="How many actions one message may lead to before the turn is ended."
    )
    chat_api_key: Annotated[SecretStr | None, BeforeValidator(parse.token), Made(generate_token, on_request=True)] = (
        Field(
            default=None,
            json_schema_extra={"shown_default": "none: the chat wants an API key"},
            description="A key that opens `/chat/…` and nothing else, as the service principal `chat`: 32 to 256 "
            "random characters. See [chat](chat.md#the-chat-key).",
        )
    )
    chat_workspace: Annotated[str, BeforeValidator(_workspace)] = Field(
        default="default", description="The workspace of that principal."
    )
    chat_scopes: Annotated[tuple[str, ...], BeforeValidator(_chat_scopes)] = Field(
        default=("chat", "actions:preview"),
        json_schema_extra={"shown_default": "`chat actions:preview`"},
        description="The scopes of that principal: `chat`, and `actions:preview`, `actions:execute`.",
    )
    chat_pilot_mode: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=False,
        description="Opens `/chat/…` without any key, as the service principal `chat`; in `local` and for callers of "
        "this machine only.",
    )

    @field_validator("ai_idle_seconds")
    @classmethod
    def _within_the_whole(cls, value: int, info: ValidationInfo) -> int:
        whole: int = info.data.get("ai_timeout_seconds", value)
        return min(value, whole)

    @property
    def model_name(self) -> str | None:
        """The model that is asked first, None where there is none."""
        if self.ai_model is not None:
            return self.ai_model
        return DEFAULT_MODEL if self.openai_api_key is not None else None
