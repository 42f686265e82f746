"""Metrics of conversations move when what they count has happened; what a model fails in is not counted as Relay's."""

from pathlib import Path
from typing import Any

import aiohttp

from relay.store.target import Target
from tests.chat_talk import HELD, held, say, settled, until
from tests.gateway import Gateway, open_gateway
from tests.metrics_kit import changes, pick, scrape

FAST = {"AI_RETRIES": "0", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "AI_MODEL": "none", "AI_PRICES": "none=0/0"}


async def moved_since(gateway: Gateway, before: Any) -> dict[str, dict[str, float]]:
    """Return what the chat has counted since."""
    found = changes(before, await scrape(gateway))
    return {
        name: moved
        for name, moved in found.items()
        if name.startswith("relay_chat_") and name.endswith(("_total", "_count"))
    }


async def test_a_turn_that_waits_goes_on_and_ends(target: Target, tmp_path: Path) -> None:
    async with open_gateway(target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        before = await scrape(gateway)
        session, call = await held(gateway, key)
        assert await moved_since(gateway, before) == {"relay_chat_turn_duration_seconds_count": {"": 1}}
        path = f"/chat/sessions/{session}/calls/{call['id']}/approve"
        (await gateway.post(path, {"digest": call["digest"]}, key=gateway.admin)).expect(200)
        await settled(gateway, key, session)

        async def counted() -> bool:
            return len(await moved_since(gateway, before)) == 5

        await until(counted, "all of it is counted")
        assert await moved_since(gateway, before) == {
            "relay_chat_turn_duration_seconds_count": {"": 2},
            "relay_chat_turns_total": {"done": 1},
            "relay_chat_calls_total": {"succeeded": 1},
            "relay_chat_wait_seconds_count": {"": 1},
            "relay_chat_resumed_total": {"decision": 1},
        }


async def test_a_call_that_does_not_wait_and_one_that_is_cancelled(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await gateway.key(*HELD)
        before = await scrape(gateway)
        (await say(gateway, 'echo "hello"', key=key)).expect(200)
        moved = await moved_since(gateway, before)
        assert moved["relay_chat_calls_total"] == {"succeeded": 1} and "relay_chat_wait_seconds_count" not in moved
        session, _ = await held(gateway, key)
        (await gateway.post(f"/chat/sessions/{session}/cancel", {}, key=key)).expect(200)
        moved = await moved_since(gateway, before)
        assert moved["relay_chat_turns_total"] == {"done": 1, "cancelled": 1}
        assert moved["relay_chat_calls_total"] == {"succeeded": 1, "cancelled": 1}


async def test_streams_that_are_open(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway, aiohttp.ClientSession() as client:
        key = await gateway.key(*HELD)
        session, _ = await held(gateway, key)
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{gateway.port}/chat/sessions/{session}/events"

        async def streams(number: int) -> bool:
            return pick(await scrape(gateway), "relay_chat_streams") == number

        assert await streams(0)
        async with client.get(url, headers=headers), client.get(url, headers=headers):
            await until(lambda: streams(2), "two are open")
        await until(lambda: streams(0), "none is left")


async def test_a_model_that_does_not_answer_is_no_failure_of_relay(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", OPENAI_API_KEY="sk-nobody-0123456789", **FAST) as gateway:
        key = await gateway.key(*HELD)
        before = await scrape(gateway)
        assert (await say(gateway, "Hello", key=key)).status == 503
        assert (await gateway.post("/ai/plan", {"prompt": 'echo "hello"'}, key=key)).status == 503
        assert (await gateway.get("/nothing-here", key=key)).status == 404
        moved = changes(before, await scrape(gateway))
        assert moved["relay_http_destination_errors_total"] == {"/chat/": 1, "/ai/plan": 1}
        assert {name: count for name, count in moved["relay_http_requests_total"].items() if "5xx" in name} == {
            "/chat/ 5xx": 1,
            "/ai/plan 5xx": 1,
        }
        assert moved["relay_chat_turns_total"] == {"failed": 1}
