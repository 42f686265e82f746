"""What servers do about secrets by themselves: warn, end, rotate what is due; and how old everything is."""

import asyncio
from pathlib import Path

import pytest

from relay.core.clock import DAY, now
from relay.house import House, open_house
from relay.rotation import care as care_module
from relay.rotation import rotate as rotate_module
from relay.rotation.ages import Age
from relay.store.target import Target
from relay.telemetry.catalogue import SECRETS
from tests.audit_kit import own
from tests.gateway import Gateway, open_gateway, settings_for
from tests.rotation_kit import care_of, key_files, opened, states

PERIOD = 90 * DAY


@pytest.mark.parametrize(
    ("days", "state"), [(0, "fresh"), (75, "fresh"), (77, "soon"), (89, "soon"), (90, "due"), (400, "due")]
)
def test_a_secret_is_due_after_its_period(days: int, state: str) -> None:
    assert Age("SECRET_KEY", "x", 5 * DAY).state((5 + days) * DAY, PERIOD) == state


async def test_every_secret_has_an_age(gateway: Gateway) -> None:
    ages = gateway.house.secret_ages()
    given = {"WEBHOOK_SIGNING_SECRET"} if gateway.house.target.kind == "postgres" else set()
    assert {*SECRETS} - ages.keys() == given, "no webhook secret was given"
    assert all(0 <= age < 600 for age in ages.values())
    own(gateway.house.target, ("UPDATE secret_keys SET current_at = ?", (now() - 3 * DAY,)))
    await gateway.house.keyring.refresh()
    assert 3 * 86_400 <= gateway.house.secret_ages()["SECRET_KEY"] < 3 * 86_400 + 600


async def test_a_warning_comes_once_before_and_once_when_it_is_due(gateway: Gateway) -> None:
    house, start = gateway.house, now()
    first = len(house.secret_ages())
    care = care_of(house, period=PERIOD, rotates=False)
    assert await care.look(start) == []
    assert await gateway.events("secrets:secret:due") == []
    for moment, expected in ((start + 80 * DAY, first), (start + 81 * DAY, first), (start + 91 * DAY, 2 * first)):
        for _ in range(2):
            await care.look(moment)
        assert len(await gateway.events("secrets:secret:due")) == expected
    outcomes = [row["outcome"] for row in await gateway.events("secrets:secret:due")]
    assert (outcomes.count("soon"), outcomes.count("due")) == (first, first)


async def test_workspaces_that_ask_are_told(gateway: Gateway) -> None:
    for workspace in ("asks", "silent"):
        admin = await gateway.key("webhooks:manage", workspace=workspace, kind="person")
        wanted = {"url": "https://example.com/hook", "events": ["secret.*" if workspace == "asks" else "run.*"]}
        (await gateway.post("/webhooks/endpoints", wanted, key=admin)).expect(201)
    await care_of(gateway.house, period=PERIOD, rotates=False).look(now() + 91 * DAY)
    told = {row["workspace_id"] for row in await gateway.events("secrets:secret:due")}
    assert told == {"", "asks"}


async def test_the_workspace_of_a_receiver_is_warned_of_its_secret(gateway: Gateway) -> None:
    admin = await gateway.key("webhooks:manage", workspace="shop", kind="person")
    made = (await gateway.post("/webhooks/receivers", {"name": "shop", "scheme": "standard"}, key=admin)).expect(201)
    care = care_of(gateway.house, period=PERIOD, rotates=False)
    for _ in range(2):
        await care.look(now() + 80 * DAY)
    (told,) = await gateway.events("secrets:secret:due", workspace_id="shop")
    assert (told["target"], told["outcome"]) == (made["id"], "soon")


async def test_what_is_due_is_rotated_once_however_many_look(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotate_module, "REST", 0)
    data = tmp_path / "data"
    async with open_gateway(target, data) as gateway, open_house(settings_for(target, data)) as other:
        before = gateway.house.envelopes.current
        for table in ("secret_keys", "peppers"):
            own(target, (f"UPDATE {table} SET current_at = ?", (now() - 91 * DAY,)))
        moment = now()
        cares = [care_of(house, period=PERIOD, rotates=True) for house in (gateway.house, other)]
        reports = [report for found in await asyncio.gather(*(care.look(moment) for care in cares)) for report in found]
        rotated = sorted(report.secret for report in reports if report.changed)
        own_keys = ["OAUTH_ENCRYPTION_KEY", "WEBHOOK_SIGNING_SECRET"] if target.kind == "sqlite" else []
        assert set(rotated) == {*own_keys, "pepper"}
        events = [row["target"] for row in await gateway.events("secrets:secret:rotated")]
        assert sorted(events) == sorted([*own_keys, "pepper"]), "each once"
        (await gateway.get("/audit", key=gateway.admin)).expect(200)
        if target.kind == "sqlite":
            assert gateway.house.envelopes.current != before
            assert await states(other, "encryption") == {before: "retired", gateway.house.envelopes.current: "current"}
            assert (await opened(other))[1] == {gateway.house.envelopes.current}
            assert [name.partition(".")[0] for name in key_files(data)] == [
                "encryption_key",
                "secret_key",
                "webhook_signing_secret",
                "webhook_signing_secret",
            ]


async def test_nothing_is_rotated_that_is_not_due_or_without_being_told(gateway: Gateway) -> None:
    before = await everything(gateway.house)
    await care_of(gateway.house, period=PERIOD, rotates=True).look(now())
    await care_of(gateway.house, period=PERIOD, rotates=False).look(now() + 400 * DAY)
    assert await everything(gateway.house) == before


async def everything(house: House) -> list[dict[str, str]]:
    return [await states(house, kind) for kind in ("encryption", "signing", "webhook")]


async def test_a_server_looks_by_itself(target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_house(settings_for(target, data)):
        pass
    own(target, ("UPDATE peppers SET current_at = ?", (now() - 91 * DAY,)))
    async with open_gateway(target, data, SECRETS_AUTO_ROTATE="true") as gateway:
        async with asyncio.timeout(60):
            while not await gateway.events("secrets:secret:rotated", target="pepper"):
                await asyncio.sleep(0.05)


async def test_a_folder_that_cannot_be_written_does_not_end_the_care(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(care_module, "LOOK_SECONDS", 0.05)
    async with open_house(settings_for(sqlite_target, tmp_path / "data")) as house:
        lock = house.settings.data_dir / ".rotation-lock"
        lock.unlink(missing_ok=True)
        lock.symlink_to("nowhere")  # what opens it gets an OSError, as in a folder that is full or read-only
        await house.api_keys.refresh_peppers()
        own(sqlite_target, ("UPDATE peppers SET current_at = ?", (now() - 91 * DAY,)))
        care = care_of(house, period=90 * DAY, rotates=True)
        await care.start()
        async with asyncio.timeout(60):
            while "an hour later" not in caplog.text:
                await asyncio.sleep(0.02)
            lock.unlink()
            while len(house.keyring.peppers) < 2:
                await asyncio.sleep(0.02)
        await care.stop()
