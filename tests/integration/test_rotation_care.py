"""What servers do about secrets by themselves: warn, end, rotate what is due; and how old everything is."""

import asyncio
import json
from pathlib import Path

import pytest

from relay.core.clock import DAY, now
from relay.house import House, open_house
from relay.rotation import care as care_module
from relay.rotation import rotate as rotate_module
from relay.rotation import workspaces
from relay.rotation.ages import Age
from relay.rotation.workspaces import ENDPOINTS, RECEIVERS, oldest
from relay.store.endpoints import PURPOSE, EndpointRepository
from relay.store.target import Target
from relay.telemetry.catalogue import SECRETS
from relay.webhooks import endpoints
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
    events = [row for row in await gateway.events("secrets:secret:due") if row["target"] in SECRETS]
    assert {row["workspace_id"] for row in events} == {"", "asks"}


async def test_the_workspace_of_a_receiver_is_warned_of_its_secret(gateway: Gateway) -> None:
    admin = await gateway.key("webhooks:manage", workspace="shop", kind="person")
    made = (await gateway.post("/webhooks/receivers", {"name": "shop", "scheme": "standard"}, key=admin)).expect(201)
    care = care_of(gateway.house, period=PERIOD, rotates=False)
    for _ in range(2):
        await care.look(now() + 80 * DAY)
    (told,) = await gateway.events("secrets:secret:due", workspace_id="shop")
    assert (told["target"], told["outcome"]) == (made["id"], "soon")


async def test_the_workspace_of_an_endpoint_is_warned_of_its_secret(gateway: Gateway) -> None:
    admin = await gateway.key("webhooks:manage", workspace="shop", kind="person")
    wanted = {"url": "https://example.com/hook", "events": ["key.*"]}
    made = (await gateway.post("/webhooks/endpoints", wanted, key=admin)).expect(201)
    care = care_of(gateway.house, period=PERIOD, rotates=False)
    await care.look(now() + 70 * DAY)
    assert await gateway.events("secrets:secret:due", workspace_id="shop") == []
    for days in (80, 81, 91, 92):
        await care.look(now() + days * DAY)
    told = await gateway.events("secrets:secret:due", workspace_id="shop")
    assert sorted((row["target"], row["outcome"]) for row in told) == [(made["id"], "due"), (made["id"], "soon")]


async def test_a_rotation_begins_the_age_of_an_endpoints_secret_anew(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await old_endpoint(gateway, monkeypatch, 40)
    assert (await ages_of_workspaces(gateway))[ENDPOINTS] > 39 * 86_400
    (before,) = (await gateway.get(path, key=gateway.admin)).expect(200)["secrets"]
    assert before["ends_at"] is None
    rotated = (await gateway.post(f"{path}/rotate", key=gateway.admin)).expect(200)
    first, second = rotated["secrets"]
    assert first == {"created_at": before["created_at"], "ends_at": rotated["older_until"]}
    assert second["created_at"] > before["created_at"] and second["ends_at"] is None
    moved = {"url": "https://example.com/moved"}
    assert (await gateway.call("PATCH", path, json=moved, key=gateway.admin)).expect(200)["secrets"] == [first, second]
    assert 0 <= (await ages_of_workspaces(gateway))[ENDPOINTS] < 600
    await care_of(gateway.house, period=PERIOD, rotates=False).look(now() + 60 * DAY)
    assert await gateway.events("secrets:secret:due") == []


async def test_the_oldest_secret_counts_wherever_it_is(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "_PAGE", 2)
    assert await ages_of_workspaces(gateway) == {}
    paths = [await old_endpoint(gateway, monkeypatch, days) for days in (30, 20, 15, 12, 11)]
    for path in paths[:3]:
        (await gateway.post(f"{path}/rotate", {"overlap_hours": 0}, key=gateway.admin)).expect(200)
    assert 11.9 * 86_400 < (await ages_of_workspaces(gateway))[ENDPOINTS] < 12.1 * 86_400
    (await gateway.call("PATCH", paths[3], json={"enabled": False}, key=gateway.admin)).expect(200)
    assert 10.9 * 86_400 < (await ages_of_workspaces(gateway))[ENDPOINTS] < 11.1 * 86_400
    await care_of(gateway.house, period=PERIOD, rotates=False).look(now() + 70 * DAY)
    (told,) = await gateway.events("secrets:secret:due")
    assert paths[4].endswith(told["target"]) and told["outcome"] == "soon"


async def test_every_receiver_has_its_turn(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "_PAGE", 2)
    made = [
        (await gateway.post("/webhooks/receivers", {"scheme": "standard"}, key=gateway.admin)).expect(201)["id"]
        for _ in range(5)
    ]
    (await gateway.call("PATCH", f"/webhooks/receivers/{made[0]}", json={"enabled": False}, key=gateway.admin)).expect(
        200
    )
    assert 0 <= (await ages_of_workspaces(gateway))[RECEIVERS] < 600
    care = care_of(gateway.house, period=PERIOD, rotates=False)
    await care.look(now() + 80 * DAY)
    told = {row["target"] for row in await gateway.events("secrets:secret:due")}
    assert told - {*SECRETS} == {*made[1:]}


async def test_a_secret_whose_making_was_not_noted_is_as_old_as_its_endpoint(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await old_endpoint(gateway, monkeypatch, 100)
    house, name = gateway.house, path.rpartition("/")[2]
    body = await house.vault.open(workspace="default", purpose=PURPOSE, record_id=name)
    assert body is not None
    plain = {key: value for key, value in json.loads(body).items() if key != "since"}
    sealed = house.vault.seal(
        json.dumps(plain).encode(), workspace="default", purpose=PURPOSE, record_id=name, expires_at=None
    )
    await house.database.writer.run(lambda tx: EndpointRepository("default").reseal(tx, sealed))
    (life,) = (await gateway.get(path, key=gateway.admin)).expect(200)["secrets"]
    assert life == {"created_at": None, "ends_at": None}
    assert 99 * 86_400 < (await ages_of_workspaces(gateway))[ENDPOINTS] < 101 * 86_400
    rotated = (await gateway.post(f"{path}/rotate", key=gateway.admin)).expect(200)
    assert [life["created_at"] is None for life in rotated["secrets"]] == [True, False]
    assert (await ages_of_workspaces(gateway))[ENDPOINTS] < 600


async def old_endpoint(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, days: int) -> str:
    """Make an endpoint as if it were some days ago, and return its path."""
    wanted = {"url": "https://example.com/hook", "events": ["run.*"]}
    with monkeypatch.context() as patch:
        patch.setattr(endpoints, "now", lambda: now() - days * DAY)
        made = (await gateway.post("/webhooks/endpoints", wanted, key=gateway.admin)).expect(201)
    return f"/webhooks/endpoints/{made['id']}"


async def ages_of_workspaces(gateway: Gateway) -> dict[str, float]:
    """Return the ages that the metrics show of workspaces' own secrets, in seconds."""
    found = await oldest(gateway.house.database.reader, gateway.house.envelopes)
    return {name: age.seconds(now()) for name, age in found.items()}


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
