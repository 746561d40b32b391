"""The settings of keys: what signs checkpoints, what seals secrets and personal values, how long API keys may last."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

# A key of 32 bytes.
HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


def former_keys(text: str) -> Mapping[bytes, datetime]:
    """Public keys and the times that they are good for; raises `ValueError` for anything else."""
    found: dict[bytes, datetime] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _at, time = part.partition("@")
        try:
            until = datetime.fromisoformat(time)
        except ValueError:
            until = None
        if HEX_KEY.fullmatch(key) is None or until is None or until.tzinfo is None:
            raise ValueError("CHECKPOINT_KEYS_FORMER: <64 hex digits>@<time with its offset>, by comma")
        found[bytes.fromhex(key)] = until
    return found


class KeySettings(BaseSettings):
    """A part of the settings."""

    oidc_key_days_max: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="how many days after the end of a token a key may last that was made or rotated with it",
    )
    checkpoint_key: SecretStr | None = Field(
        None,
        description="Ed25519 seed (64 hex digits) that signs checkpoints; default: a key file in DATA_DIR",
    )
    checkpoint_keys_former: str | None = Field(
        None,
        description="public keys that signed checkpoints before the one in force, each with the time of its last "
        "signature: `<64 hex digits>@<time>`, by comma, as `escrowgrid checkpoints keys` shows them",
    )
    webhook_key: SecretStr | None = Field(
        None,
        description="key (64 hex digits) that encrypts webhook secrets; default: a key file in DATA_DIR. "
        "Every process of an installation needs the same",
    )
    webhook_key_former: SecretStr | None = Field(
        None,
        description="the WEBHOOK_KEY (or key file) before the one in force, while secrets are sealed anew "
        "(`escrowgrid webhooks reseal`)",
    )
    personal_keys: SecretStr | None = Field(
        None,
        description="master keys (64 hex digits, by comma) that personal values are sealed under: the first seals, "
        "every one opens. Every process of an installation needs them",
    )
    personal_key_file: Path | None = Field(
        None,
        description="a file with the same, one a line, read again when it changes; default: a key file in DATA_DIR, "
        "made on the first start",
    )

    @property
    def former_checkpoint_keys(self) -> Mapping[bytes, datetime]:
        """The public keys before the one in force, and until when each signed."""
        return former_keys(self.checkpoint_keys_former or "")

    @field_validator("checkpoint_keys_former")
    @classmethod
    def _former(cls, value: str | None) -> str | None:
        former_keys(value or "")
        return value

    @field_validator("checkpoint_key", "webhook_key", "webhook_key_former", "personal_keys")
    @classmethod
    def _keys(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        several = info.field_name == "personal_keys"
        text = "" if value is None else value.get_secret_value()
        parts = [part.strip() for part in text.split(",")] if several else [text]
        if value is not None and any(HEX_KEY.fullmatch(part) is None for part in parts):
            what = "64 hex digits each, by comma" if several else "64 hex digits"
            raise ValueError(f"{str(info.field_name).upper()}: {what}, for keys of 32 bytes")
        return value
