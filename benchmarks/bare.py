"""What the guarded path is compared with: one FastAPI endpoint with a pydantic body, served as Relay is served."""

import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Execute(BaseModel):
    """The same body that Relay's endpoint takes."""

    action: str
    params: dict[str, Any]


@app.post("/actions/execute")
async def execute(body: Execute) -> dict[str, Any]:
    """Answer in the shape of Relay's answer."""
    return {
        "attempt_id": "att_01a2035b3f6a1d2e3f4a5b6c7d8e9f00",
        "status": "succeeded",
        "action": body.action,
        "result": {"message": body.params["message"]},
        "duration_ms": 0,
    }


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


def main() -> None:
    """Serve on the port that is given."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
