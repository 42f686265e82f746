"""What holds for every connector."""

import copy
import inspect
import json
import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from relay.catalog import ActionSpec, Catalog, Connector
from relay.connectors import echo, email, http, webhook
from relay.core.action import Effect
from relay.core.canonical import canonical_json
from relay.core.permit import Permit, PermitRefused
from relay.core.principal import SCOPES
from relay.egress.http import HttpClient
from relay.egress.mail import MaildirTransport
from relay.egress.policy import EgressPolicy
from tests.outside import answer, http_server, make_permit, make_step

SECRET = "hunter2-VERY-secret"
MODULES = {"echo": echo, "email": email, "http": http, "webhook": webhook}
CONNECTORS: list[Connector] = [module.connector for module in MODULES.values()]
SPECS = [spec for connector in CONNECTORS for spec in connector.actions.values()]

# Parameters of each action, with SECRET wherever it takes one; {url} is a server of the test.
SAMPLES: dict[str, dict[str, Any]] = {
    "email.send": {
        "to": ["to@example.com"],
        "subject": "Hello",
        "text": "Hi",
        "attachments": [{"name": "a.txt", "data": "aHVudGVyMi1WRVJZLXNlY3JldA=="}],
    },
    "http.request": {
        "method": "POST",
        "url": "{url}/in?access_token=" + SECRET,
        "headers": {"Authorization": SECRET},
        "query": {"sig": SECRET},
        "json": {"client_secret": SECRET, "n": [1.0, 2]},
    },
    "relay.echo": {"message": "hello"},
    "webhook.save": {"url": "{url}/in?key=" + SECRET, "payload": {"password": SECRET, "n": 1.5}},
}


def sample(spec: ActionSpec, url: str = "http://127.0.0.1:9") -> dict[str, Any]:
    filled: dict[str, Any] = json.loads(json.dumps(SAMPLES[spec.name]).replace("{url}", url))
    return filled


def client_of(spec: ActionSpec, folder: Path) -> Any:
    if spec.connector == "email":
        return MaildirTransport(folder / "mail")
    return HttpClient(EgressPolicy(["127.0.0.0/8"])) if spec.connector in ("http", "webhook") else None


def every(function: Any) -> Any:
    return pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)(function)


def test_every_connector_of_the_package_is_covered() -> None:
    folder = Path(inspect.getfile(email)).parent
    # Honey actions are made from a setting and never run: they have tests of their own.
    declaring = {file.stem for file in folder.glob("*.py") if "Connector(" in file.read_text()} - {"honey"}
    assert declaring == set(MODULES)
    assert set(SAMPLES) == {spec.name for spec in SPECS}
    catalog = Catalog()
    for connector in CONNECTORS:
        catalog.register(connector, None)
    assert [spec.name for spec in catalog] == sorted(SAMPLES)


@every
def test_the_declaration_is_whole(spec: ActionSpec) -> None:
    assert spec.effect in get_args(Effect) and spec.scope in SCOPES
    assert spec.name.startswith(f"{spec.connector}.") and spec.summary.endswith(".")
    assert 0 < spec.timeout <= 120 and spec.version >= 1
    for model in (spec.params, spec.result):
        schema = model.model_json_schema()
        assert schema["type"] == "object" and schema["properties"]


@every
def test_unknown_fields_are_refused(spec: ActionSpec) -> None:
    spec.params.model_validate(sample(spec))
    with pytest.raises(ValidationError):
        spec.params.model_validate({**sample(spec), "unknown": 1})


@every
def test_parameters_survive_storage(spec: ActionSpec) -> None:
    params = spec.params.model_validate(sample(spec))
    stored = canonical_json(params.model_dump(mode="json"))
    again = spec.params.model_validate_json(stored)
    assert again == params
    assert canonical_json(spec.digest_form(again)) == canonical_json(spec.digest_form(params))


@every
def test_the_digest_form_covers_every_parameter(spec: ActionSpec) -> None:
    params = spec.params.model_validate(sample(spec))
    assert set(spec.digest_form(params)) == set(params.model_dump(mode="json"))


@every
def test_rendering_is_deterministic_and_plain_json(spec: ActionSpec, tmp_path: Path) -> None:
    client, step = client_of(spec, tmp_path), make_step(spec.name, spec.params.model_validate(sample(spec)))
    again = make_step(spec.name, spec.params.model_validate(step.params.model_dump(mode="json")), nonce=step.nonce)
    first = spec.render(step, client)
    assert first == spec.render(again, client)
    json.dumps(first.body, allow_nan=False)
    assert first.summary and "\n" not in first.summary


@every
def test_redaction_and_rendering_leak_nothing(spec: ActionSpec, tmp_path: Path) -> None:
    step = make_step(spec.name, spec.params.model_validate(sample(spec)))
    shown = json.dumps(spec.redact(step.params)) + repr(spec.render(step, client_of(spec, tmp_path)))
    assert SECRET not in shown
    for attachment in sample(spec).get("attachments", []):
        assert attachment["data"] not in shown


@every
async def test_the_handler_runs_once_with_a_permit_of_its_own_and_never_without(
    spec: ActionSpec, tmp_path: Path
) -> None:
    client = client_of(spec, tmp_path)
    async with http_server(answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        step = make_step(spec.name, spec.params.model_validate(sample(spec, server.url)))
        other = make_step("other.action", step.params)
        used = make_permit(step)
        assert isinstance(await spec.handler(used, step.params, client), spec.result)
        forged = object.__new__(Permit)
        for name in ("step", "deadline"):
            object.__setattr__(forged, name, getattr(used, name))
        refused: list[Any] = [None, object(), used, forged, make_permit(other), make_permit(step, seconds=-1)]
        for permit in refused:
            with pytest.raises(PermitRefused):
                await spec.handler(permit, step.params, client)
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(PermitRefused):
                duplicate(make_permit(step))
    folder = tmp_path / "mail" / "new"
    effects = len(server.requests) + (len(list(folder.iterdir())) if folder.exists() else 0)
    assert effects == (0 if spec.effect == "read" else 1)
