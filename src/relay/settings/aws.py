"""Secrets from AWS Secrets Manager: one secret, a JSON object of settings' names and their values.

The extra ``aws`` (boto3, pydantic-settings) is imported when ``SECRETS_AWS_ID`` is set and not before. Who asks, and
how it proves that, is boto3's business: the role of the instance, task or pod, or its usual variables and files. The
endpoint is the operator's own choice, so it is not subject to the rules of egress.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from relay.settings.parse import is_loopback_host, origin

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

INSTALL: Final = ".venv/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/aws.txt"
CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 5
ATTEMPTS: Final = 2
_CODE: Final = re.compile(r"[A-Za-z]{1,60}|[1-5][0-9]{2}", re.ASCII)
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_NAME: Final = r"[A-Za-z0-9/_+=.@-]{1,512}"
_ARN: Final = rf"arn:aws[a-z-]{{0,20}}:secretsmanager:[a-z0-9-]{{1,40}}:[0-9]{{12}}:secret:{_NAME}"
_ID: Final = re.compile(f"{_NAME}|{_ARN}", re.ASCII)
_REGION: Final = re.compile(r"[a-z]{2,4}(-[a-z]{2,16}){1,3}-[0-9]{1,2}", re.ASCII)


def secret_id(text: Any) -> str | None:
    """Return the name or the ARN of a secret; none stays none."""
    if text is not None and not _ID.fullmatch(text):
        raise ValueError("must be the name or the ARN of one secret")
    return None if text is None else str(text)


def region(text: Any) -> str | None:
    """Return the code of a region; none stays none."""
    if text is not None and not _REGION.fullmatch(text):
        raise ValueError("must be the code of a region like eu-central-1")
    return None if text is None else str(text)


def endpoint_url(text: Any) -> str | None:
    """Return ``https://host[:port]``, or ``http`` on this machine alone; none stays none."""
    if text is None:
        return None
    found = origin(text)
    if found.startswith("http://") and not is_loopback_host(urlsplit(found).hostname or ""):
        raise ValueError("must begin with https://: secrets would cross the network in the clear")
    return found


@dataclass(frozen=True, slots=True)
class AwsSecret:
    """Which secret: its name or ARN, and the region and endpoint where it is not boto3 that knows them."""

    id: str
    region: str | None
    endpoint_url: str | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self | None:
        """Return the secret that the settings name, if any; an ARN says its region. ValueError for wrong ones."""
        if (name := secret_id(given.get("SECRETS_AWS_ID"))) is None:
            return None
        parts = name.split(":")
        where = region(given.get("SECRETS_AWS_REGION")) or (parts[3] if len(parts) > 3 else None)
        return cls(name, where, endpoint_url(given.get("SECRETS_AWS_ENDPOINT_URL")))

    @property
    def place(self) -> str:
        """Where this is, as messages say it."""
        return f"AWS secret {self.id}"


def read_aws_secret(where: AwsSecret) -> tuple[dict[str, SecretStr | None], list[str]]:
    """Return the members of a secret, None for one whose value is no text, and why it cannot be used.

    Waits for at most about :data:`ATTEMPTS` times :data:`CONNECT_SECONDS` and :data:`READ_SECONDS`. Neither the
    problems nor an exception carry anything that the secret holds.
    """
    try:
        members = _members(where)
    except ImportError:
        problem = f"needs the extra `aws`; in the checkout run: {INSTALL}"
    except _Unusable as error:
        problem = str(error)
    else:
        return members, []
    return {}, [f"SECRETS_AWS_ID: {problem} ({where.place})"]


class _Unusable(Exception):
    """Why there is nothing to be had, in words that say nothing about the content."""


def _members(where: AwsSecret) -> dict[str, SecretStr | None]:
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from pydantic_settings import AWSSecretsManagerSettingsSource, BaseSettings

    # At debug level botocore writes whole answers into the log.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    session = botocore.session.Session()
    retries: Any = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    bounds = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    session.set_default_client_config(bounds)
    # The source takes no configuration of its own, only what boto3's default session says.
    before = boto3.DEFAULT_SESSION
    boto3.setup_default_session(botocore_session=session)
    try:
        source = AWSSecretsManagerSettingsSource(
            BaseSettings, where.id, region_name=where.region, endpoint_url=where.endpoint_url
        )
        return _wrapped(source.env_vars)
    except ClientError as error:
        reason = _refused(error)
    except BotoCoreError as error:
        reason = _unreachable(error)
    except KeyError:
        reason = "must hold text; this one is binary"
    except (ValueError, AttributeError, RecursionError):
        # From the decoding of what came: such an exception holds the text.
        reason = "must hold a JSON object of names and values"
    finally:
        boto3.DEFAULT_SESSION = before
    raise _Unusable(reason)


def _wrapped(members: Mapping[str, Any]) -> dict[str, SecretStr | None]:
    return {name: SecretStr(value) if isinstance(value, str) else None for name, value in members.items()}


def _refused(error: "ClientError") -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    shown = code if _CODE.fullmatch(code) else "without a code"
    if code == "ResourceNotFoundException":
        return "there is no such secret, or it has no current version"
    if code in _DENIED or status in (401, 403):
        return f"access is denied ({shown}): secretsmanager:GetSecretValue is needed, kms:Decrypt with a key of yours"
    return f"AWS refuses it ({shown})"


def _unreachable(error: "BotoCoreError") -> str:
    from botocore.exceptions import ConnectTimeoutError, NoCredentialsError, NoRegionError, ReadTimeoutError

    if isinstance(error, NoRegionError):
        return "which region? Set SECRETS_AWS_REGION"
    if isinstance(error, NoCredentialsError):
        return "there are no AWS credentials: give the machine, task or pod a role, or configure boto3"
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return f"AWS does not answer within {ATTEMPTS} times {READ_SECONDS} seconds"
    return f"AWS cannot be asked ({type(error).__name__})"
