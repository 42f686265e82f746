"""``webhook.save``: post a JSON payload to a URL."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from relay.catalog import Connector, Rendering
from relay.connectors import exchange
from relay.connectors.masking import Masked, mask_json, mask_url
from relay.core.action import Step
from relay.core.canonical import canonical_json
from relay.core.permit import Permit
from relay.egress.http import HttpClient
from relay.egress.target import MAX_URL, parse_target

connector: Final = Connector("webhook", hosts=None)


def _payload(value: JsonValue) -> JsonValue:
    canonical_json(value)
    return value


def _url(value: str) -> str:
    return parse_target(value).url


class SaveWebhook(BaseModel):
    """Parameters of ``webhook.save``."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[
        str, AfterValidator(_url), Field(max_length=MAX_URL, description="Where to send it: http:// or https://")
    ]
    payload: Annotated[JsonValue, AfterValidator(_payload), Field(description="Any JSON value; it becomes the body")]
    method: Literal["POST", "PUT", "PATCH"] = "POST"


def compose(params: SaveWebhook) -> exchange.Request:
    """Return the request; its body is the payload's canonical JSON (RFC 8785), the same bytes each time."""
    masked = Masked()
    return exchange.Request(
        method=params.method,
        url=params.url,
        headers={"content-type": "application/json"},
        body=canonical_json(params.payload),
        shown=mask_json(params.payload, masked),
        masked=masked,
    )


def render(step: Step, client: HttpClient) -> Rendering:
    """Show the request with secrets masked."""
    return exchange.render(compose(step.params), client)


def redact(params: SaveWebhook) -> dict[str, Any]:
    """Return the parameters with secrets in the URL and in the payload masked."""
    return {"url": mask_url(params.url), "payload": mask_json(params.payload), "method": params.method}


def expose(params: SaveWebhook) -> exchange.ExposedRequest:
    """Show policies and budgets the request as it is sent."""
    return exchange.expose(compose(params))


@connector.action(
    "webhook.save",
    effect="write",
    render=render,
    redact=redact,
    expose=expose,
    irreversible=True,
    untrusted_result=True,
    timeout=exchange.ACTION_TIMEOUT,
    concurrency=exchange.CONCURRENCY,
)
async def save(permit: Permit, params: SaveWebhook, client: HttpClient) -> exchange.Answer:
    """Send a JSON payload to a webhook URL."""
    return await exchange.exchange(permit, compose(params), client, redirects=False)
