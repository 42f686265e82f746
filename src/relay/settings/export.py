"""The headers that a collector of telemetry is sent, as OTEL_EXPORTER_OTLP_HEADERS writes them."""

from urllib.parse import unquote

from relay.settings.model import Settings


def header_pairs(settings: Settings) -> dict[str, str]:
    """Return the headers by their names in lower case; values are percent-decoded."""
    given = settings.otel_exporter_otlp_headers
    if given is None:
        return {}
    pairs = [part.partition("=") for part in given.get_secret_value().split(",")]
    return {name.lower(): unquote(value) for name, _, value in pairs}
