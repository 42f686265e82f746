"""The bare endpoint with three limits by another library, each by its quickest strategy, a fixed window.

`python -m benchmarks.others PORT slowapi|limits [REDIS_URL]`
"""

import socket
import sys
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from limits import RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string
from slowapi import Limiter
from slowapi.util import get_remote_address

from benchmarks.bare import Execute, execute, health

MOST = 1_000_000


def with_slowapi(storage: str) -> FastAPI:
    """Return the endpoint behind three limits of slowapi."""
    app = FastAPI()
    limiter = app.state.limiter = Limiter(key_func=get_remote_address, storage_uri=storage, headers_enabled=False)

    @app.post("/actions/execute")
    @limiter.limit(f"{MOST}/second;{MOST}/minute;{MOST}/hour")
    async def limited(request: Request, body: Execute) -> dict[str, Any]:
        return await execute(body)

    return app


def with_limits(storage: str) -> FastAPI:
    """Return the endpoint behind three limits of limits, called as its documentation shows."""
    app = FastAPI()
    options = {"implementation": "redispy"} if storage.startswith("redis") else {}
    limiter = FixedWindowRateLimiter(storage_from_string(f"async+{storage}", **options))
    items = [kind(MOST) for kind in (RateLimitItemPerSecond, RateLimitItemPerMinute, RateLimitItemPerHour)]

    async def check(request: Request) -> None:
        for item in items:
            if not await limiter.hit(item, request.client.host if request.client else ""):
                raise HTTPException(429)

    @app.post("/actions/execute", dependencies=[Depends(check)])
    async def limited(body: Execute) -> dict[str, Any]:
        return await execute(body)

    return app


def main() -> None:
    """Serve on the port that is given."""
    port, library, *redis = sys.argv[1:]
    app = {"slowapi": with_slowapi, "limits": with_limits}[library](redis[0] if redis else "memory://")
    app.get("/health")(health)
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=2048)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
