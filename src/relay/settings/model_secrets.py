"""The settings of secrets' sources, ages and rotation."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from relay.core.clock import end_of_day
from relay.settings import aws, parse
from relay.settings.secret_text import decode_kek


def _encryption_keys(secret: Any) -> SecretStr:
    for text in secret.get_secret_value().split(","):
        decode_kek(text)
    return SecretStr(secret.get_secret_value())


class SecretsSettings(BaseModel):
    """What :class:`~relay.settings.model.Settings` says about secrets."""

    secrets_aws_id: Annotated[str | None, BeforeValidator(aws.secret_id)] = Field(
        default=None,
        description="Name or ARN of a secret in AWS Secrets Manager that holds Relay's secrets, as a JSON object of "
        "names and values; needs the extra `aws`, see [secrets](secrets.md#aws-secrets-manager).",
    )
    secrets_aws_region: Annotated[str | None, BeforeValidator(aws.region)] = Field(
        default=None,
        json_schema_extra={"shown_default": "that of boto3: `AWS_DEFAULT_REGION`, or its configuration"},
        description="Region of that secret.",
    )
    secrets_aws_endpoint_url: Annotated[str | None, BeforeValidator(aws.endpoint_url)] = Field(
        default=None,
        json_schema_extra={"shown_default": "that of the region"},
        description="Where Secrets Manager is asked, for instance a VPC endpoint; `https://`, or `http://` on this "
        "machine.",
    )
    oauth_encryption_key_previous: Annotated[SecretStr | None, BeforeValidator(_encryption_keys)] = Field(
        default=None,
        description="Other key-encryption keys that this process shall hold, comma-separated: the one before "
        "`OAUTH_ENCRYPTION_KEY` until `relay secrets rotate` has ended. See [rotation](rotation.md).",
    )
    secret_key_previous: Annotated[SecretStr | None, BeforeValidator(parse.secret_key)] = Field(
        default=None,
        description="The `SECRET_KEY` before this one, until `relay secrets rotate --kind signing` has ended.",
    )
    webhook_signing_secret_previous: Annotated[SecretStr | None, BeforeValidator(parse.webhook_secret)] = Field(
        default=None,
        description="The `WEBHOOK_SIGNING_SECRET` before this one, accepted until "
        "`WEBHOOK_SIGNING_SECRET_PREVIOUS_UNTIL`.",
    )
    webhook_signing_secret_previous_until: Annotated[date | None, BeforeValidator(parse.day)] = Field(
        default=None,
        validate_default=True,
        json_schema_extra={"shown_default": "none; must be set with `WEBHOOK_SIGNING_SECRET_PREVIOUS`"},
        description="Last day, in UTC, on which `WEBHOOK_SIGNING_SECRET_PREVIOUS` is accepted.",
    )
    secret_period_days: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=90,
        ge=15,
        le=3650,
        description="Age at which a secret should be rotated; a warning comes 14 days before and another one then.",
    )
    secrets_auto_rotate: Annotated[bool, BeforeValidator(parse.switch)] = Field(
        default=False,
        description="Rotate what Relay can by itself once it is due: on SQLite its own key-encryption key and webhook "
        "secret, and everywhere the pepper of API keys.",
    )

    honey_actions: Annotated[tuple[str, ...], BeforeValidator(parse.action_names)] = Field(
        default=(),
        description="Names of actions that are traps, comma-separated, such as `vault.export_credentials`: whoever "
        "asks for one loses the credential, see [honey](keys.md#honey-actions).",
    )
    leak_report_keys_file: Annotated[Path | None, BeforeValidator(parse.existing_file)] = Field(
        default=None,
        description="File with the public keys of GitHub's secret scanning, as its API answers them: a report that one "
        "of them signed is believed about where a key was found, see [leaks](keys.md#report-a-leak).",
    )
    rate_limit_leak_reports_per_minute: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=30, ge=1, le=1_000_000, description="Reports of leaked keys from one address in a minute."
    )
    rate_limit_children_per_minute: Annotated[int, BeforeValidator(parse.whole)] = Field(
        default=60, ge=1, le=1_000_000, description="Child tokens that one key mints or ends in a minute."
    )

    @field_validator("webhook_signing_secret_previous_until")
    @classmethod
    def _previous_has_an_end(cls, value: date | None, info: ValidationInfo) -> date | None:
        if value is None and info.data.get("webhook_signing_secret_previous") is not None:
            raise ValueError("must be set together with WEBHOOK_SIGNING_SECRET_PREVIOUS")
        return value

    @property
    def webhook_previous_end(self) -> int | None:
        """The moment after the last day of the previous webhook secret, in microseconds; None when none is set."""
        until = self.webhook_signing_secret_previous_until
        return None if until is None else end_of_day(until)
