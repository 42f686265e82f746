"""`deploy/`: complete files that name what exists, hold no secret, and give nothing more than Relay needs.

No container engine runs these here. What they are made of is tested instead: every setting, file, secret and label that
they name, the scripts, the program of the health check, and the package that the image is built from.
"""

import asyncio
import fnmatch
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.cli.secrets_formats import in_form
from relay.settings import load_settings
from relay.settings.generate import generate_secrets
from relay.settings.model import FIELDS, SECRETS
from relay.settings.safety import refusals
from tests.gateway import Gateway

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
DOCKER = DEPLOY / "docker"
KUBERNETES = DEPLOY / "kubernetes"
USER = "10001"
KNOWN = {*FIELDS, *(f"{name}_FILE" for name in SECRETS)}
GRACE = load_settings({}, Path("/")).shutdown_grace_seconds
TAG = re.compile(r"[a-z0-9./-]+:(?!latest)[\w.-]+")


# The image.


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(number for number, (name, _) in enumerate(found) if name == "FROM") :]


def copied() -> list[str]:
    """Return what the first stage copies out of the checkout."""
    lines = [shlex.split(rest) for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    return [source for line in lines for source in line[:-1]]


def environment_of_image() -> dict[str, str]:
    words = [word for name, rest in final_stage() if name == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def test_the_image_runs_as_nobody_in_particular() -> None:
    stage = final_stage()
    assert [rest for name, rest in stage if name == "USER"] == [f"{USER}:{USER}"]
    before = stage[: [name for name, _ in stage].index("USER")]
    assert {name for name, _ in stage[len(before) :]} & {"RUN", "COPY", "ADD"} == set(), "nothing of it is its own"
    assert [rest for name, rest in stage if name in ("ENTRYPOINT", "CMD")] == ['["relay"]', '["serve"]']


def test_no_layer_holds_a_secret_or_what_is_not_locked() -> None:
    found = instructions()
    assert {name for name, _ in found} & {"ADD", "VOLUME", "SHELL"} == set()
    arguments = [rest for name, rest in found if name in ("ARG", "ENV")]
    assert not any(secret in rest for rest in arguments for secret in SECRETS)
    assert [rest for name, rest in found if name == "ARG"] == ["BASE=python:3.11-slim-bookworm"]
    assert {rest.split()[0] for name, rest in found if name == "FROM"} == {"${BASE}"}
    installs = [part for name, rest in found if name == "RUN" for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 2
    assert all("--require-hashes --no-deps --only-binary :all:" in part or "--no-index" in part for part in installs)


def test_the_image_takes_from_the_checkout_what_it_names_and_nothing_else() -> None:
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())
    assert all((TOP / source).exists() for source in copied())
    assert not any(fnmatch.fnmatch(source, pattern) for source in copied() for pattern in (".env*", ".git*", "data*"))


def test_settings_of_the_image_exist_and_are_accepted(tmp_path: Path) -> None:
    given = {name: value for name, value in environment_of_image().items() if not name.startswith(("PATH", "PYTHON"))}
    assert set(given) <= set(FIELDS) and given["RELAY_HOST"] == "0.0.0.0"
    assert refusals(load_settings(given, tmp_path)) == []


async def test_the_health_check_tells_a_live_gateway_from_none(gateway: Gateway) -> None:
    [line] = [rest for name, rest in final_stage() if name == "HEALTHCHECK"]
    program = json.loads(line.partition("CMD ")[2])
    assert program[:2] == ["python", "-c"]

    async def status(port: int) -> int:
        command = [sys.executable, *program[1:]]
        environment = {"RELAY_PORT": str(port)}
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
        return await asyncio.wait_for(process.wait(), 60)

    assert await status(gateway.port) == 0
    assert await status(1) != 0


@pytest.mark.timeout(240)
def test_what_the_image_installs_is_whole(tmp_path: Path) -> None:
    """The last step of the build, on nothing but what was copied: the package holds every file of the source."""
    build = tmp_path / "build"
    for source in copied():
        target = build / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (TOP / source).is_dir():
            shutil.copytree(TOP / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(TOP / source, target)
    out = tmp_path / "out"
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *offline, "-w", out, "."], cwd=build, check=True, timeout=200)
    [wheel] = out.glob("relay-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("relay/")}
    sources = (TOP / "src/relay").rglob("*")
    there = {path.relative_to(TOP / "src").as_posix() for path in sources if path.is_file() and path.suffix != ".pyc"}
    assert there - packed == set()


# Compose.


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return loaded


def run_script(folder: Path, text: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "secrets.sh"] if text is None else ["sh"]
    environment = {"PATH": os.environ["PATH"], **env}
    return subprocess.run(
        command, cwd=folder, input=text, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DOCKER, tmp_path / "docker"))


@pytest.mark.parametrize("name", ["relay", "postgres", "redis"])
def test_no_service_may_more_than_it_needs(name: str) -> None:
    service = compose()["services"][name]
    assert service["user"] == f"{USER}:{USER}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "env_file"} & service.keys()
    assert TAG.fullmatch(service["image"])
    assert "/var/run/docker.sock" not in json.dumps(service)
    assert all("noexec" in mount for mount in service["tmpfs"])


def test_only_the_gateway_is_reached_and_from_this_machine_alone() -> None:
    found = compose()
    assert [name for name, service in found["services"].items() if "ports" in service] == ["relay"]
    assert all(port.startswith("127.0.0.1:") for port in found["services"]["relay"]["ports"])
    assert found["networks"]["back"] == {"internal": True}
    assert found["services"]["postgres"]["networks"] == found["services"]["redis"]["networks"] == ["back"]
    [network] = found["networks"]["front"]["ipam"]["config"]
    assert found["services"]["relay"]["environment"]["TRUSTED_PROXIES"] == network["gateway"]
    assert int(found["services"]["relay"]["stop_grace_period"].rstrip("s")) > GRACE + 10


def test_every_secret_of_compose_is_a_file_that_is_made() -> None:
    found = compose()
    used = {secret for service in found["services"].values() for secret in service["secrets"]}
    assert used == set(found["secrets"])
    assert {secret: entry["file"] for secret, entry in found["secrets"].items()} == {
        secret: f"./secrets/{secret}" for secret in used
    }
    [listed] = re.findall(r'^files="(.+)"$', (DOCKER / "secrets.sh").read_text(), re.MULTILINE)
    assert set(listed.split()) == used
    for service in found["services"].values():
        for name, value in service.get("environment", {}).items():
            if value.startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"], name
    assert set(found["services"]["relay"]["environment"]) <= KNOWN
    assert not SECRETS & found["services"]["relay"]["environment"].keys()


def test_the_script_makes_passwords_once_that_relay_takes(folder: Path) -> None:
    ended = run_script(folder)
    assert ended.returncode == 0, ended.stderr
    made = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (folder / "secrets").iterdir())
    assert stat.S_IMODE((folder / "postgres").stat().st_mode) == 0o700
    assert len({made["database_password"], made["postgres_password"]}) == 2
    assert made["database_password"] in made["database_url"] and len(made["database_password"]) == 48
    redis = re.findall(r"^requirepass (\w{48})$", made["redis_conf"], re.MULTILINE)
    assert f"default:{redis[0]}@" in made["redis_url"]
    assert not any(made[name] in ended.stdout + ended.stderr for name in made)
    again = run_script(folder)
    assert again.returncode == 1 and "is not replaced" in again.stderr
    assert {path.name: path.read_text() for path in (folder / "secrets").iterdir()} == made


def test_compose_with_its_generated_secrets_is_a_whole_configuration(folder: Path, tmp_path: Path) -> None:
    assert run_script(folder).returncode == 0
    made = run_script(folder, in_form("compose", generate_secrets()))
    assert made.returncode == 0, made.stderr
    more = yaml.safe_load((folder / "compose.secrets.yaml").read_text())
    given = {**compose()["services"]["relay"]["environment"], **more["services"]["relay"]["environment"]}
    given["RELAY_PUBLIC_URL"] = "https://relay.example.com"
    given = {
        name: value.replace("/run/secrets", str(folder / "secrets"))
        for name, value in given.items()
        if "$" not in value
    }
    settings = load_settings({**environment_of_image_settings(), **given}, tmp_path)
    assert refusals(settings) == [] and settings.warnings == ()
    assert settings.shared_database and settings.redis_url is not None and settings.metrics_token is not None


def test_a_model_is_added_to_compose_by_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    more = yaml.safe_load((folder / "compose.model.yaml").read_text())
    service = more["services"]["relay"]
    assert set(more["services"]) == {"relay"} and set(service) == {"environment", "secrets"}
    assert set(more["secrets"]) == set(service["secrets"]) and not set(more["secrets"]) & set(compose()["secrets"])
    defaults = re.compile(r"\$\{(\w+):-(.*)\}")
    given = {name: defaults.sub(r"\2", value) for name, value in service["environment"].items()}
    assert all(match[1] == name for name, value in service["environment"].items() if (match := defaults.match(value)))
    assert set(given) <= KNOWN and not SECRETS & set(given)
    for secret, entry in more["secrets"].items():
        assert entry == {"file": f"./secrets/{secret}"}
        path = tmp_path / secret
        path.write_text("q3V7yTn0b9xKcZ2LwPd8RmJf5hGsA1uE")
        path.chmod(0o600)
    given = {name: value.replace("/run/secrets", str(tmp_path)) for name, value in given.items()}
    settings = load_settings(given, tmp_path)
    assert settings.openai_api_key is not None and settings.model_name == "gpt-5-mini" and not settings.ai_prices


def environment_of_image_settings() -> dict[str, str]:
    return {name: value for name, value in environment_of_image().items() if name.startswith("RELAY_")}


def test_the_database_role_is_made_without_showing_its_password() -> None:
    text = (DOCKER / "postgres-init.sh").read_text()
    assert "NOSUPERUSER" in text and "`cat /run/secrets/database_password`" in text
    assert subprocess.run(["sh", "-n", DOCKER / "postgres-init.sh"], check=False).returncode == 0
    init = [mount for mount in compose()["services"]["postgres"]["volumes"] if "initdb" in mount]
    assert init == ["./postgres-init.sh:/docker-entrypoint-initdb.d/relay.sh:ro"]
    assert all(os.access(DOCKER / name, os.X_OK) for name in ("postgres-init.sh", "secrets.sh"))


# Kubernetes.


def objects() -> Iterator[dict[str, Any]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text())


def one(kind: str) -> dict[str, Any]:
    [found] = [each for each in objects() if each["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one("Deployment")["spec"]["template"]["spec"]
    return spec


KINDS = {
    "Namespace": "v1",
    "ConfigMap": "v1",
    "ServiceAccount": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "Ingress": "networking.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}


def test_every_object_is_of_a_known_kind_and_listed() -> None:
    found = list(objects())
    assert {each["kind"]: each["apiVersion"] for each in found} == KINDS
    for each in found:
        assert each["metadata"]["name"]
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "relay"
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == files - {"servicemonitor.yaml"}
    assert "# - servicemonitor.yaml" in (KUBERNETES / "kustomization.yaml").read_text()


def test_the_pod_meets_the_restricted_standard() -> None:
    labels = one("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec, [container] = pod(), pod()["containers"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(USER),
        "runAsGroup": int(USER),
        "fsGroup": int(USER),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is one("ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "or RELAY_PORT is a tcp:// address"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert {next(iter(volume.keys() - {"name"})) for volume in spec["volumes"]} == {"emptyDir", "secret"}
    assert spec["terminationGracePeriodSeconds"] > GRACE + 10
    assert TAG.fullmatch(container["image"]) and "memory" in container["resources"]["limits"]


def test_probes_ask_what_is_meant() -> None:
    [container] = pod()["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert asked == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}


def test_settings_exist_and_secrets_come_as_files_of_the_secrets_that_are_made(tmp_path: Path) -> None:
    [container] = pod()["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert set(mounts) == set(volumes)
    assert all(mount["readOnly"] for name, mount in mounts.items() if "secret" in volumes[name])
    config = one("ConfigMap")["data"]
    assert set(config) <= set(FIELDS) - SECRETS and all(isinstance(value, str) for value in config.values())
    assert all(set(entry) == {"name", "value"} for entry in container["env"]), "no secret by environment"
    named = {entry["name"]: entry["value"] for entry in container["env"]}
    assert set(named) <= {f"{name}_FILE" for name in SECRETS}
    generated = yaml.safe_load(in_form("kubernetes", generate_secrets()))
    folders = {
        mount["mountPath"]: volumes[name]["secret"]["secretName"]
        for name, mount in mounts.items()
        if "secret" in volumes[name]
    }
    made = {name for name, path in named.items() if folders[str(Path(path).parent)] == generated["metadata"]["name"]}
    assert {Path(named[name]).name for name in made} == set(generated["stringData"])
    database_url = "postgresql://r:Xb7qLw92ZrTn4kVd@db/r?sslmode=verify-full"  # pragma: allowlist secret
    secrets = {**generated["stringData"], "database_url": database_url}
    secrets["redis_url"] = "rediss://r:Xb7qLw92ZrTn4kVd@redis"  # pragma: allowlist secret
    given = dict(config)
    for name, path in named.items():
        file = tmp_path / Path(path).name
        file.write_text(secrets[file.name])
        file.chmod(0o600)
        given[name] = str(file)
    settings = load_settings(given, tmp_path)
    assert refusals(settings) == [] and settings.warnings == ()
    assert config["RELAY_PORT"] == str(container["ports"][0]["containerPort"])
    assert config["RELAY_DATA_DIR"].startswith(mounts["data"]["mountPath"] + "/"), "a folder of Relay's own"


def test_what_is_left_out_of_the_pod_fits_in_when_it_is_used() -> None:
    text = (KUBERNETES / "deployment.yaml").read_text()
    left_out = {entry["name"] for entry in pod()["containers"][0]["env"]}
    used = yaml.safe_load(re.sub(r"(?m)^( +)# (- \{name: \w+_FILE)", r"\1\2", text))
    [container] = used["spec"]["template"]["spec"]["containers"]
    more = {entry["name"]: entry["value"] for entry in container["env"] if entry["name"] not in left_out}
    assert {"OPENAI_API_KEY_FILE", "CHAT_API_KEY_FILE", "SMTP_URL_FILE"} <= set(more)
    assert set(more) <= {f"{name}_FILE" for name in SECRETS}
    assert all(path == f"/run/secrets/links/{name.lower().removesuffix('_file')}" for name, path in more.items())


def test_selectors_and_ports_fit_together() -> None:
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one("PodDisruptionBudget")["spec"]["minAvailable"] < one("Deployment")["spec"]["replicas"]
    assert one("ServiceMonitor")["spec"]["selector"]["matchLabels"] == one("Service")["metadata"]["labels"]
    [port] = one("Service")["spec"]["ports"]
    assert port["targetPort"] == pod()["containers"][0]["ports"][0]["name"]
    [endpoint] = one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] == port["name"] and endpoint["path"] == "/metrics"
    assert endpoint["authorization"]["credentials"]["key"] in in_form("kubernetes", generate_secrets())
    [labelled] = endpoint["relabelings"]
    scraped = yaml.safe_load((TOP / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert {labelled["targetLabel"]: labelled["replacement"]} == scraped["static_configs"][0]["labels"]
    [path] = one("Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == one("Service")["metadata"]["name"]
    host = one("Ingress")["spec"]["rules"][0]["host"]
    assert one("ConfigMap")["data"]["RELAY_PUBLIC_URL"] == f"https://{host}"
    assert one("Ingress")["spec"]["tls"][0]["hosts"] == [host]


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policies = [each["spec"] for each in objects() if each["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    [relay] = [each for each in policies if each["podSelector"]]
    assert relay["podSelector"]["matchLabels"] == one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert all(rule["from"] and rule["ports"] for rule in relay["ingress"])
    assert all(rule["to"] and rule["ports"] for rule in relay["egress"])
    [world] = [peer["ipBlock"] for rule in relay["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert {"169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} <= set(world["except"])


# Railway and systemd.


def test_railway_builds_the_image_and_asks_for_health(tmp_path: Path) -> None:
    found = json.loads((DEPLOY / "railway/railway.json").read_text())
    assert (TOP / found["build"]["dockerfilePath"]).is_file() and found["build"]["builder"] == "DOCKERFILE"
    assert found["deploy"]["healthcheckPath"] == "/health" and found["deploy"]["drainingSeconds"] > GRACE + 10
    assert found["deploy"]["startCommand"] == "relay serve"
    lines = (DEPLOY / "railway/variables.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given.pop("PORT") == given["RELAY_PORT"]
    assert set(given) <= set(FIELDS)
    links = {name: value for name, value in given.items() if value.startswith("${{")}
    assert set(links) == {"DATABASE_URL", "REDIS_URL"}
    password = "Xb7qLw92ZrTn4kVd"  # pragma: allowlist secret
    given |= {"DATABASE_URL": f"postgresql://r:{password}@db/r", "REDIS_URL": f"redis://r:{password}@redis"}
    settings = load_settings({**given, **generate_secrets()}, tmp_path)
    assert refusals(settings) == [] and settings.warnings == ()


def test_credentials_of_the_units_are_called_as_settings() -> None:
    text = (DEPLOY / "systemd/credentials.conf").read_text()
    loaded = dict(re.findall(r"^#?LoadCredential=(\w+):(\S+)$", text, re.MULTILINE))
    assert {name.upper() for name in loaded} <= SECRETS
    assert all(path == f"/etc/relay/credentials/{name}" for name, path in loaded.items())
    enabled = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert {name.upper() for name in enabled} == set(generate_secrets())


def test_nothing_secret_and_no_latest_image_anywhere() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "relay:latest" not in text and not re.search(r"whsec_[A-Za-z0-9+/]{20}|relay_sk_\w{20}", text), path
