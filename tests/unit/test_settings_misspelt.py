"""Names that were meant for Relay and are no settings: each is told, no value ever is, and no other program's is."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.settings import SettingsError, load_settings
from relay.settings.misspelt import IGNORED, MOST_TOLD, NAMES, meant
from relay.settings.model import FIELDS
from relay.settings.safety import refusals
from relay.settings.secret_text import generate_kek, generate_secret_key, generate_webhook_secret

VALUE = "Zk7canary9QwZk7canary9Qw"

SLIPS = {
    "AI_MODLE": "AI_MODEL",
    "CHAT_KEYY": "CHAT_API_KEY",
    "RATE_LIMT_GLOBAL_PER_MINUTE": "RATE_LIMIT_GLOBAL_PER_MINUTE",
    "DATABASE_URI": "DATABASE_URL",
    "OPENAI_APIKEY": "OPENAI_API_KEY",
    "openai_api_key": "OPENAI_API_KEY",
    "LOGLEVEL": "LOG_LEVEL",
    "SMTP_FORM": "SMTP_FROM",
    "SECRET_KEY_FLE": "SECRET_KEY_FILE",
    "OAUTH_ENCRYPION_KEY": "OAUTH_ENCRYPTION_KEY",
}

ORDINARY = """
    PATH HOME USER LOGNAME SHELL LANG LC_ALL LC_CTYPE TERM TZ PWD OLDPWD SHLVL HOSTNAME MAIL EDITOR VISUAL PAGER DISPLAY
    TMPDIR XDG_RUNTIME_DIR XDG_DATA_HOME DBUS_SESSION_BUS_ADDRESS SSH_AUTH_SOCK SSH_CONNECTION COLORTERM LS_COLORS _
    INVOCATION_ID JOURNAL_STREAM CREDENTIALS_DIRECTORY NOTIFY_SOCKET LISTEN_FDS MAINPID STATE_DIRECTORY LOGS_DIRECTORY
    PYTHONPATH PYTHONUNBUFFERED PYTHON_VERSION PIP_NO_CACHE_DIR VIRTUAL_ENV UV_CACHE_DIR NODE_ENV npm_config_cache
    http_proxy https_proxy HTTP_PROXY NO_PROXY ALL_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
    AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ROLE_ARN
    AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_CREDENTIALS_RELATIVE_URI GOOGLE_APPLICATION_CREDENTIALS
    KUBERNETES_SERVICE_HOST KUBERNETES_PORT_443_TCP_ADDR REDIS_SERVICE_HOST REDIS_PORT DATABASE_PORT CHAT_SERVICE_PORT
    METRICS_PORT_9090_TCP DOCKER_HOST COMPOSE_PROJECT_NAME CI GITHUB_TOKEN GITHUB_ACTIONS GITLAB_CI VAULT_ADDR
    VAULT_TOKEN GOOGLE_CLOUD_PROJECT GOOGLE_MAPS_KEY
    PGHOST PGUSER PGPASSWORD PGDATABASE PGSSLMODE POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB POSTGRES_URL MYSQL_URL
    DATABASE_HOST DATABASE_NAME DATABASE_URL_2 DATABASE_URL2 TEST_DATABASE_URL DATABASE_PUBLIC_URL DATABASE_PRIVATE_URL
    REDIS_HOST REDIS_PASSWORD REDIS_TLS_URL REDIS_URL_1 REDISHOST REDIS_PUBLIC_URL SMTP_HOST SMTP_PORT SMTP_USER
    SMTP_PASSWORD SECRET_KEY_BASE DJANGO_SECRET_KEY FLASK_SECRET_KEY API_KEY HOST PORT DEBUG DEV_MODE APP_ENV LOG_DIR
    OPENAI_KEY OPENAI_MODEL OPENAI_ORG_ID OPENAI_API_BASE OPENAI_API_VERSION OPENAI_API_KEY_2 ANTHROPIC_MODEL
    ANTHROPIC_AUTH_TOKEN AZURE_OPENAI_API_KEY GEMINI_API_KEY CHAT_MODEL CHAT_KEY AI_AGENT AI_GATEWAY_API_KEY
    OTEL_TRACES_SAMPLER OTEL_TRACES_EXPORTER OTEL_METRICS_EXPORTER OTEL_LOGS_EXPORTER OTEL_EXPORTER_OTLP_PROTOCOL
    OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_COMPRESSION OTEL_EXPORTER_OTLP_INSECURE OTEL_RESOURCE_ATTRIBUTES
    OTEL_EXPORTER_OTLP_CLIENT_KEY OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
    OTEL_EXPORTER_OTLP_METRICS_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_METRIC_EXPORT_TIMEOUT OTEL_SDK_DISABLED
    OTEL_PROPAGATORS OTEL_BSP_SCHEDULE_DELAY RAILWAY_ENVIRONMENT RAILWAY_SERVICE_NAME RAILWAY_PUBLIC_DOMAIN
    RAILWAY_PRIVATE_DOMAIN RAILWAY_DEPLOYMENT_DRAINING_SECONDS DYNO WEB_CONCURRENCY SENTRY_DSN RELAYER warnings
""".split()


def warned(environ: dict[str, str], cwd: Path) -> list[str]:
    return [line for line in load_settings(environ, cwd).warnings if line.startswith(IGNORED)]


def dotenv(folder: Path, text: str) -> list[str]:
    (folder / ".env").write_text(text)
    (folder / ".env").chmod(0o600)
    return warned({"RELAY_ENV": "local"}, folder)


@pytest.mark.parametrize(("name", "setting"), SLIPS.items())
def test_a_slip_in_the_environment_is_named_with_what_was_meant(tmp_path: Path, name: str, setting: str) -> None:
    (line,) = warned({name: VALUE}, tmp_path)
    assert f"{name}, did you mean {setting}? (environment)" in line
    assert VALUE not in line and "\n" not in line
    assert warned({name: ""}, tmp_path) == []


def test_what_an_ordinary_environment_holds_is_left_alone(tmp_path: Path) -> None:
    assert warned(dict.fromkeys(ORDINARY, "1") | {"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path) == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_setting_is_no_slip_of_another(name: str) -> None:
    assert meant(name) == ""
    assert meant(f"MY_{name}") == "" == meant(f"{name}_2")


@given(name=st.sampled_from(sorted(FIELDS)), place=st.integers(0, 30), data=st.data())
def test_any_one_character_wrong_in_a_long_name_is_a_slip_of_it(name: str, place: int, data: st.DataObject) -> None:
    if len(name) < 9:
        name = "RATE_LIMIT_GLOBAL_PER_MINUTE"
    place %= len(name) - 1
    letter = data.draw(st.sampled_from(string.ascii_uppercase))
    swapped = name[:place] + name[place + 1] + name[place] + name[place + 2 :]
    for slip in (name[:place] + letter + name[place:], name[:place] + name[place + 1 :], swapped):
        if slip not in NAMES and not name[place].isdigit():
            assert meant(slip) in NAMES


class TestDotenv:
    def test_every_unknown_name_is_told_in_one_line_with_its_own(self, tmp_path: Path) -> None:
        (line,) = dotenv(
            tmp_path, f"# hello\n\nAI_MODLE={VALUE}\nLOG_LEVEL=info\n\n\nexport OTHER_TOOL='{VALUE}'\nNONE=\nDEBUG=1\n"
        )
        path = tmp_path / ".env"
        assert line == (
            f"{IGNORED} are ignored: AI_MODLE, did you mean AI_MODEL? ({path}, line 3); OTHER_TOOL ({path}, line 7); "
            f"DEBUG ({path}, line 9)"
        )

    @pytest.mark.parametrize(
        "secret",
        [
            "JBSWY3DPEHPK3PXP====",
            "QUtJQUlPU0ZPRE5ON0VYQU1QTEU==",
            generate_kek(),
            generate_secret_key(),
            generate_webhook_secret(),
            "sk-proj-" + "aB3" * 12,
            "AKIA" + "Q7Z2" * 4,
            "relay_sk_live_" + "aB3" * 16 + "x",
        ],
        ids=["base32", "base64", "fernet", "random", "webhook", "openai", "aws", "ours"],
    )
    @pytest.mark.parametrize("form", ["{}", "{}=1", "export {}", "{}="])
    def test_a_secret_in_a_name_s_place_is_not_shown(self, tmp_path: Path, form: str, secret: str) -> None:
        written = form.format(secret)
        try:
            shown = " ".join(dotenv(tmp_path, written + "\n"))
        except SettingsError as error:
            shown = str(error)
        assert secret.strip("=") not in shown
        if not written.endswith("=") or written.endswith("=="):  # NAME= is a name that is given nothing
            assert "line 1" in shown or "RELAY_…" in shown

    def test_a_setting_without_a_value_sign_is_told(self, tmp_path: Path) -> None:
        (line,) = dotenv(tmp_path, "LOG_LEVEL=info\nAI_RECORD\n")
        assert "one without =" in line and "line 2" in line

    def test_of_many_the_first_are_named_and_the_rest_counted(self, tmp_path: Path) -> None:
        (line,) = dotenv(tmp_path, "".join(f"OTHER_TOOL_{letter}=1\n" for letter in string.ascii_uppercase))
        assert line.count("OTHER_TOOL_") == MOST_TOLD and line.endswith(f"and {26 - MOST_TOLD} more")

    def test_one_that_is_not_read_tells_nothing(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("AI_MODLE=1\n")
        assert warned({}, tmp_path) == []


def test_a_slip_among_credentials_is_told(tmp_path: Path) -> None:
    for name in ("database_ulr", "somebody_elses"):
        (tmp_path / name).write_text(VALUE)
        (tmp_path / name).chmod(0o600)
    (line,) = warned({"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    assert f"database_ulr, did you mean DATABASE_URL? (credential in {tmp_path})" in line
    assert VALUE not in line and "somebody" not in line


class TestRefusals:
    def test_a_slip_stands_beside_what_start_up_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError) as caught:
            load_settings({"RELAY_PORT": "many", "AI_MODLE": VALUE}, tmp_path)
        first, last = caught.value.problems
        assert first.startswith("RELAY_PORT") and last.startswith(IGNORED) and "AI_MODLE" in last
        assert VALUE not in str(caught.value)

    def test_a_slip_stands_beside_a_key_that_is_missing(self, tmp_path: Path) -> None:
        given = {"DATABASE_URL": f"postgresql://u:{VALUE}@h/d", "SECRET_KEY": generate_secret_key()}
        found = refusals(load_settings({**given, "OAUTH_ENCRYPION_KEY": generate_kek()}, tmp_path))
        assert "OAUTH_ENCRYPTION_KEY" in found[0] and "did you mean OAUTH_ENCRYPTION_KEY?" in found[-1]
        proper = {**given, "OAUTH_ENCRYPTION_KEY": generate_kek(), "AI_MODLE": "1"}
        assert refusals(load_settings(proper, tmp_path)) == []
