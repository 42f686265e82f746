"""What Relay counts, for Prometheus and whatever reads its format."""

from starlette.responses import Response

from relay.core.access import Access
from relay.surface.declare import Call, Routes
from relay.telemetry.exposition import Exposition


def metrics_routes(exposition: Exposition) -> Routes:
    """Return the route of a scrape."""
    routes = Routes()

    @routes.get(
        "/metrics",
        access=Access("operator", frozenset(), ("unlimited",), "api:metrics:read"),
        summary="Metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(call: Call) -> Response:
        """Show every metric, as Prometheus text or, where ``Accept`` asks for it, as OpenMetrics."""
        body, media_type = await exposition.answer(call.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return routes
