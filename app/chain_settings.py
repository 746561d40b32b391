"""The settings of anchoring: the chain, the contract there, the account that submits, and what it may cost."""

import re
from decimal import Decimal
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings


class ChainSettings(BaseSettings):
    """A part of the settings."""

    chain_url: SecretStr | None = Field(
        None,
        description="http(s)://… JSON-RPC of a node: heads of the ledger are anchored on its chain; default: none are",
    )
    chain_id: int | None = Field(None, ge=1, lt=2**53, description="the chain that CHAIN_URL has to be on")
    chain_contract: str | None = Field(
        None, description="address of the contract there (see `escrowgrid anchor deploy`)"
    )
    chain_key: SecretStr | None = Field(
        None, description="private key (64 hex digits) of the account that submits"
    )
    chain_keystore: Path | None = Field(
        None, description="the same as an encrypted keystore file (Web3 Secret Storage, version 3)"
    )
    chain_keystore_password: SecretStr | None = Field(
        None, description="what CHAIN_KEYSTORE is encrypted with"
    )
    chain_confirmations: int = Field(
        12, ge=1, le=10_000, description="blocks, its own included, after which an anchor counts as final"
    )
    chain_batch_events: int = Field(
        1_000, ge=1, description="events that are anchored without waiting for more"
    )
    chain_batch_seconds: float = Field(
        60.0, gt=0, description="how long an event waits to be anchored together with others"
    )
    chain_poll_seconds: float = Field(2.0, gt=0, description="how often the chain is looked at")
    chain_request_seconds: float = Field(10.0, gt=0, description="how long the node may take to answer")
    chain_resend_seconds: float = Field(
        30.0, gt=0, description="after how long a transaction that is not mined is sent again"
    )
    chain_bump_seconds: float = Field(
        120.0, gt=0, description="after how long it is replaced by one that pays more"
    )
    chain_fee_max_gwei: Decimal = Field(
        Decimal(200), gt=0, description="most that a transaction may pay for a unit of gas; above it waits"
    )
    chain_balance_min: Decimal = Field(
        Decimal("0.05"),
        ge=0,
        description="what the account should have (of the chain's own coin): below it alarms",
    )

    @field_validator("chain_key")
    @classmethod
    def _private_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", value.get_secret_value()) is None:
            raise ValueError("CHAIN_KEY is 64 hex digits: a private key of secp256k1")
        return value

    @field_validator("chain_url")
    @classmethod
    def _over_http(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and re.match(r"https?://[^/\s]+", value.get_secret_value()) is None:
            raise ValueError("CHAIN_URL is an http or https address")
        return value

    @field_validator("chain_contract")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"0x[0-9a-fA-F]{40}", value) is None:
            raise ValueError("CHAIN_CONTRACT is an address: 0x and 40 hex digits")
        return None if value is None else value.lower()

    @model_validator(mode="after")
    def _whole_chain(self) -> "ChainSettings":
        """A setting that is missing never turns anchoring off silently."""
        if (self.chain_keystore is None) != (self.chain_keystore_password is None):
            raise ValueError("CHAIN_KEYSTORE and CHAIN_KEYSTORE_PASSWORD belong together")
        if self.chain_key is not None and self.chain_keystore is not None:
            raise ValueError("give either CHAIN_KEY or CHAIN_KEYSTORE")
        key = self.chain_key or self.chain_keystore
        given: dict[str, object] = {
            "CHAIN_URL": self.chain_url,
            "CHAIN_ID": self.chain_id,
            "CHAIN_CONTRACT": self.chain_contract,
        }
        given["CHAIN_KEY or CHAIN_KEYSTORE"] = key
        missing = [name for name, value in given.items() if value is None]
        # A chain and a key alone are enough for deploying the contract.
        if missing and self.chain_contract is not None:
            raise ValueError(f"anchoring needs {', '.join(missing)} as well")
        return self

    @property
    def anchors(self) -> bool:
        """Whether heads of the ledger are anchored."""
        return self.chain_contract is not None
