"""The settings of metrics, logs and traces."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr

from relay.settings import parse
from relay.settings.secret_text import Made, PartlySecret, generate_token

UnusualRule = Literal["first_use", "new_network", "volume", "denials_then_success"]


class TelemetrySettings(BaseModel):
    """What :class:`~relay.settings.model.Settings` says about telemetry."""

    telemetry_enabled: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=True, description="When `false`, there is no `/metrics` and nothing is exported; logs stay."
    )
    metrics_token: Annotated[SecretStr | None, BeforeValidator(parse.token), Made(generate_token)] = Field(
        default=None,
        json_schema_extra={"shown_default": "none: only direct callers from this machine may scrape"},
        description="Bearer token for which `/metrics` answers callers of other machines: 32 to 256 random characters.",
    )
    metrics_host: Annotated[str, BeforeValidator(parse.bind_address)] = Field(
        default="127.0.0.1",
        description="IP address on which `relay worker` serves `/metrics`; not on loopback it wants `METRICS_TOKEN`.",
    )
    metrics_port: Annotated[int | None, BeforeValidator(parse.whole)] = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port on which `relay worker` serves `/metrics`, each worker its own; 0 takes a free one. "
        "`relay serve` answers it on its own port.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="How [logs](logs.md) are written to standard error: one JSON object a line, or text for people. "
        "`auto` is text where standard error is a terminal and JSON elsewhere.",
    )
    access_log: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=True, description="Whether each request is logged in [one line](logs.md#the-access-log)."
    )
    otel_exporter_otlp_endpoint: Annotated[str | None, BeforeValidator(parse.http_url)] = Field(
        default=None,
        description="Base address of an OTLP/HTTP collector, to which [traces](tracing.md) and metrics are sent: "
        "`http://127.0.0.1:4318`. Needs the extra `otel`.",
    )
    otel_exporter_otlp_headers: Annotated[SecretStr | None, BeforeValidator(parse.header_list), PartlySecret()] = Field(
        default=None, description="Headers for the collector: `name=value`, comma-separated, percent-encoded."
    )
    otel_exporter_otlp_certificate: Annotated[Path | None, BeforeValidator(parse.existing_file)] = Field(
        default=None, description="PEM file of the authorities that the collector's certificate is checked against."
    )
    otel_service_name: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        default="relay", description="The name `service.name` of traces and metrics that are exported."
    )
    otel_traces_sampler_arg: Annotated[float, BeforeValidator(parse.ratio)] = Field(
        default=1.0,
        description="Part of the requests that are traced, from 0 to 1. A caller's own decision does not change it.",
    )
    otel_metric_export_interval: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=60_000, ge=1_000, le=3_600_000, description="Milliseconds between two exports of metrics."
    )
    trace_propagate_hosts: Annotated[tuple[str, ...], BeforeValidator(parse.domains)] = Field(
        default=(),
        description="Hosts that are sent a `traceparent` with what Relay sends them, comma-separated; `*.example.com` "
        "for everything below it. No other host learns of a trace.",
    )
    unusual_use: Annotated[tuple[UnusualRule, ...], BeforeValidator(parse.names)] = Field(
        default=("first_use", "new_network", "volume", "denials_then_success"),
        json_schema_extra={"shown_default": "all four"},
        description="The rules on [unusual use](unusual-use.md) that hold, comma-separated: `first_use`, "
        "`new_network`, `volume`, `denials_then_success`; `none` for none.",
    )
    unusual_learning_days: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=14, ge=1, le=60, description="For how many days a key is watched before its use can be unusual."
    )
    unusual_actions_per_hour: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=30, ge=1, le=1_000_000, description="How many actions of a key in an hour are never unusually many."
    )
    unusual_percent: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=200,
        ge=100,
        le=10_000,
        description="How much is unusually much, in per cent of what was reached on three days of the last four weeks.",
    )
    unusual_denials_per_hour: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=10, ge=2, le=100, description="How many denials within an hour, before a success, may be unusual."
    )
    invalid_keys_per_block: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=10,
        ge=0,
        le=1_000,
        description="How many different keys that are not valid one /24 (IPv6: /48) may try in ten minutes before that "
        "is a [violation](unusual-use.md#many-keys-from-one-address); 0 for any number.",
    )
