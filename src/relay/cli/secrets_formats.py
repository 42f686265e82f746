"""A set of secrets in the form that a platform takes. What is a script passes no secret on as an argument.

Each script is for ``sh``: it reads the secrets from itself, stops at the first error, and replaces nothing, since a key
that is overwritten takes with it whatever was sealed with it.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

from relay.settings.credentials import credential_name

Format = Literal["env", "systemd", "systemd-plain", "compose", "kubernetes", "railway"]
Secrets = Mapping[str, str]

_SAFE: Final = re.compile(r"[A-Za-z0-9+/=_.~-]+", re.ASCII)
_CREDENTIALS: Final = "/etc/relay/credentials"
_UNITS: Final = "relay.service relay-worker@.service"
_MOUNT: Final = "/run/secrets/relay"
_OBJECT: Final = "relay-secrets"


def in_form(form: Format, secrets: Secrets) -> str:
    """Return the text for a platform, which ends with a line break. ValueError for a secret that no form can carry."""
    if not all(_SAFE.fullmatch(value) for value in secrets.values()):
        raise ValueError("a secret has characters that a shell or YAML would read as something else")
    return _FORMS[form](secrets)


def _env(secrets: Secrets) -> str:
    return "".join(f"{name}={value}\n" for name, value in secrets.items())


def _script(title: str, pipe: str, body: str) -> str:
    return f"# {title}\n#   relay secrets generate {pipe}\nset -eu\numask 077\n{body}"


def _here(command: str, value: str) -> str:
    return f"{command} <<'END'\n{value}\nEND\n"


def _vacant(paths: list[str]) -> str:
    """Return shell lines that stop when any of these exists already."""
    listed = " ".join(f'"{path}"' for path in paths)
    return (
        f"for path in {listed}; do\n"
        '  [ ! -e "$path" ] || { echo "$path exists, and is not replaced" >&2; exit 1; }\n'
        "done\n"
    )


def _systemd(secrets: Secrets) -> str:
    title = "Run as root, on the machine that will use them: these can be decrypted there alone."
    paths = {name: f"{_CREDENTIALS}/{credential_name(name)}.cred" for name in secrets}
    encrypt = "".join(
        _here(f'systemd-creds encrypt --name={credential_name(name)} - "$root{paths[name]}"', value)
        for name, value in secrets.items()
    )
    lines = [f"LoadCredentialEncrypted={credential_name(name)}:{path}" for name, path in paths.items()]
    return _script(title, "--format systemd | sudo sh", _installed(list(paths.values()), encrypt, lines))


def _systemd_plain(secrets: Secrets) -> str:
    title = "Run as root. The files are root's alone; systemd hands copies in memory to the service."
    paths = {name: f"{_CREDENTIALS}/{credential_name(name)}" for name in secrets}
    write = "".join(_here(f'cat > "$root{paths[name]}"', value) for name, value in secrets.items())
    lines = [f"LoadCredential={credential_name(name)}:{path}" for name, path in paths.items()]
    return _script(title, "--format systemd-plain | sudo sh", _installed(list(paths.values()), write, lines))


def _installed(paths: list[str], write: str, lines: list[str]) -> str:
    drop_in = "\n".join(["[Service]", *lines])
    return (
        f'root="${{DESTDIR:-}}"\n{_vacant([f"$root{path}" for path in paths])}'
        f'mkdir -p "$root{_CREDENTIALS}"\n{write}'
        f'for unit in {_UNITS}; do\n  folder="$root/etc/systemd/system/$unit.d"\n  mkdir -p "$folder"\n'
        + _here('  cat > "$folder/secrets.conf"', drop_in)
        + '  chmod 0755 "$folder"\n  chmod 0644 "$folder/secrets.conf"\ndone\n'
        "echo 'Now: systemctl daemon-reload && systemctl restart relay'\n"
    )


def _compose(secrets: Secrets) -> str:
    names = {name: credential_name(name) for name in secrets}
    write = "".join(_here(f'cat > "secrets/{names[name]}"', value) for name, value in secrets.items())
    listed = "".join(f"\n      - {file}" for file in names.values())
    variables = "".join(f"\n      {name}_FILE: /run/secrets/{file}" for name, file in names.items())
    files = "".join(f"\n  {file}:\n    file: ./secrets/{file}" for file in names.values())
    override = f"services:\n  relay:\n    secrets:{listed}\n    environment:{variables}\nsecrets:{files}"
    return _script(
        "Run beside compose.yaml. Docker mounts the files as they are, so they must be those of the container's user:\n"
        "# with its number in RELAY_UID, root's shell hands them over.",
        "--format compose | sh",
        _vacant([*(f"secrets/{file}" for file in names.values()), "compose.secrets.yaml"])
        + f"mkdir -p secrets\n{write}"
        + _here("cat > compose.secrets.yaml", override)
        # It names files and holds no secret, and docker compose reads it as whoever calls it.
        + "chmod 0644 compose.secrets.yaml\n"
        + 'if [ -n "${RELAY_UID:-}" ]; then chown "$RELAY_UID" '
        + " ".join(f"secrets/{file}" for file in names.values())
        + "; fi\n"
        "echo 'Now: docker compose -f compose.yaml -f compose.secrets.yaml up -d'\n",
    )


def _kubernetes(secrets: Secrets) -> str:
    data = "".join(f"  {credential_name(name)}: {json.dumps(value)}\n" for name, value in secrets.items())
    variables = "".join(
        f"#         - name: {name}_FILE\n#           value: {_MOUNT}/{credential_name(name)}\n" for name in secrets
    )
    return (
        "# relay secrets generate --format kubernetes | kubectl --namespace relay create -f -\n"
        "# (`create` refuses where there is one already; `apply` would replace it.) In the pod's template:\n"
        "#   spec:\n"
        "#     containers:\n"
        "#     - name: relay\n"
        "#       env:\n"
        f"{variables}"
        "#       volumeMounts:\n"
        "#         - name: secrets\n"
        f"#           mountPath: {_MOUNT}\n"
        "#           readOnly: true\n"
        "#     volumes:\n"
        "#     - name: secrets\n"
        "#       secret:\n"
        f"#         secretName: {_OBJECT}\n"
        "#         defaultMode: 0440\n"
        f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: {_OBJECT}\n  labels:\n    app.kubernetes.io/name: relay\n"
        f"type: Opaque\nstringData:\n{data}"
    )


def _railway(secrets: Secrets) -> str:
    body = "".join(
        _here(f"railway variable set {name} --stdin --skip-deploys", value) for name, value in secrets.items()
    )
    return _script(
        "Run where `railway link` has been run. The values go by standard input, never as arguments; what is set\n"
        "# already is replaced, so run it for a new installation only.",
        "--format railway | sh",
        f"{body}railway variable set SECRETS_FROM_ENVIRONMENT=accepted --skip-deploys\necho 'Now: railway redeploy'\n",
    )


_FORMS: Final[Mapping[Format, Callable[[Secrets], str]]] = {
    "env": _env,
    "systemd": _systemd,
    "systemd-plain": _systemd_plain,
    "compose": _compose,
    "kubernetes": _kubernetes,
    "railway": _railway,
}
