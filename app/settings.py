"""Everything that can be set from outside: read once from the environment, validated, secrets hidden."""

import re
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from app.chain_settings import ChainSettings
from app.key_settings import KeySettings

# What a provider's address may be: a name is only as good as the connection to it.
SAFE_URL = re.compile(r"(https://[^/?#\s@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?)(/[^?#\s]*)?")
# Where traces may go; its keys travel in headers of their own.
COLLECTOR_URL = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?")
OTLP = "opentelemetry.exporter.otlp.proto.http"
# Signatures by a private key alone: whoever can check them cannot make them.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


class StoreBackend(StrEnum):
    """Where the data lives."""

    EMBEDDED = "embedded"
    MEMORY = "memory"
    POSTGRES = "postgres"


class TrustedDocuments(StrEnum):
    """What becomes of documents that an operator has added, and of all others."""

    OFF = "off"
    ALLOW = "allow"
    ONLY = "only"


class Settings(ChainSettings, KeySettings):
    """The settings; each field is an environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", str_strip_whitespace=True, env_ignore_empty=True
    )

    store_backend: StoreBackend = Field(StoreBackend.EMBEDDED, description="embedded, memory or postgres")
    data_dir: Path = Field(Path(".escrowgrid"), description="where the embedded database and made keys live")
    database_url: SecretStr | None = Field(None, description="postgresql://… for STORE_BACKEND=postgres")
    database_direct_url: SecretStr | None = Field(
        None, description="the same database without a pooler between, for LISTEN"
    )
    database_owner_url: SecretStr | None = Field(
        None, description="a login that may create roles and tables, for migrations; default DATABASE_URL"
    )
    replica_url: SecretStr | None = Field(
        None,
        description="postgresql://… of a streaming replica, for queries that say how old an answer may be",
    )
    mirror_url: SecretStr | None = Field(
        None, description="postgresql://… of a second database that the ledger is copied to, the mirror"
    )
    bell_url: SecretStr | None = Field(
        None,
        description="redis://, kafka:// (with aiokafka) or memory:// bell; default: LISTEN/NOTIFY of the database",
    )
    root_api_key: SecretStr | None = Field(None, description="the root key, at least 16 characters")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="browser origins allowed, by comma"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses whose X-Forwarded-For is believed, by comma"
    )
    introspection: bool = Field(True, description="whether the schema can be asked for")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="http(s)://… of an OpenTelemetry collector that traces are sent to; needs the extra `otel`",
    )

    pool_size_max: int = Field(10, ge=2, le=200, description="database connections for queries, per process")
    pool_timeout_seconds: float = Field(5.0, gt=0, description="how long a query waits for a connection")
    statement_timeout_seconds: float = Field(10.0, gt=0, description="how long one query statement may run")
    catch_up_connections_max: int = Field(
        2, ge=1, le=20, description="connections for subscribers catching up"
    )

    body_bytes_max: int = Field(1_048_576, ge=1024, description="largest HTTP body")
    header_bytes_max: int = Field(65_536, ge=1024, description="largest header of a request, URL and all")
    request_seconds_max: float = Field(30.0, gt=0, description="time for a header, then for a body")
    frame_bytes_max: int = Field(262_144, ge=1024, description="largest WebSocket frame")
    depth_max: int = Field(12, ge=3, description="deepest selection of a document")
    tokens_max: int = Field(4000, ge=100, description="most tokens of a document")
    aliases_max: int = Field(60, ge=1, description="most aliases of a document")
    page_size_default: int = Field(50, ge=1, description="list items when neither first nor last is given")
    page_size_max: int = Field(500, ge=1, description="most list items of one page")
    directives_max: int = Field(50, ge=1, description="most directives of a document")
    cost_max: int = Field(
        100_000,
        ge=100,
        description="most that one document may cost: an object 1, a list its page size times what an item costs",
    )
    trusted_documents: TrustedDocuments = Field(
        TrustedDocuments.ALLOW,
        description="documents asked for by their sha-256: off, allow, or only these and no others",
    )
    operations_per_socket_max: int = Field(50, ge=1, description="operations open at once on one WebSocket")
    connection_init_seconds: float = Field(
        10.0, gt=0, description="how long a WebSocket may take to say connection_init"
    )

    rate_capacity: int = Field(
        2_000_000, ge=0, le=10**9, description="cost that a key may ask for at once; 0: no limit"
    )
    rate_refill_per_second: float = Field(
        200_000, ge=0.01, le=10**9, description="cost that a key may ask for each second in the long run"
    )
    root_rate_capacity: int = Field(20_000_000, ge=0, le=10**9, description="the same for root; 0: no limit")
    root_rate_refill_per_second: float = Field(
        2_000_000, ge=0.01, le=10**9, description="the same for root each second"
    )
    sensitive_capacity: int = Field(
        300,
        ge=0,
        le=10**9,
        description="institutions and keys made or revoked at once, by each principal apart; 0: no limit",
    )
    sensitive_refill_per_second: float = Field(
        1.0, ge=0.0001, le=10**9, description="the same each second in the long run"
    )
    address_capacity: int = Field(
        600, ge=0, le=10**9, description="requests without a valid key, at once from one address; 0: no limit"
    )
    address_refill_per_second: float = Field(
        20.0, ge=0.01, le=10**9, description="the same each second in the long run; of IPv6 by /64"
    )
    connections_per_key_max: int = Field(
        5_000, ge=1, description="WebSockets and event streams of one key, per process"
    )
    connections_per_address_max: int = Field(
        5_000, ge=1, description="WebSockets and event streams from one address, per process"
    )

    writer_queue_max: int = Field(4096, ge=1, description="commands waiting before new ones get OVERLOADED")
    batch_size_max: int = Field(256, ge=1, le=1024, description="commands decided in one transaction")
    batch_items_max: int = Field(100, ge=1, le=1000, description="items of one batch mutation")
    command_deadline_seconds: float = Field(20.0, gt=0, description="how long a command is retried")
    side_lane_wait_seconds: float = Field(
        5.0, gt=0, description="how long a command waits for a row held by others"
    )

    ring_bytes_max: int = Field(64 * 1024 * 1024, ge=65_536, description="memory for recent events")
    tail_page_size: int = Field(
        500, ge=1, le=5000, description="events read at once by the tail and catch-up"
    )
    tick_seconds: float = Field(1.0, gt=0, description="the tail reads this often without any bell")
    heartbeat_seconds_min: float = Field(1.0, gt=0, description="shortest heartbeat a subscriber may ask for")
    stalled_socket_seconds: float = Field(60.0, gt=0, description="a socket stalled so long is closed")

    oidc_issuer: str | None = Field(
        None, description="OpenID provider whose bearer tokens are taken, as their `iss` says; default: none"
    )
    oidc_audience: str | None = Field(None, description="what the tokens' `aud` must name")
    oidc_jwks_url: str | None = Field(
        None, description="where the provider's keys are; default: as its discovery document says"
    )
    oidc_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        ("RS256", "ES256", "EdDSA"), description="signature algorithms that tokens may have, by comma"
    )
    oidc_institution_claim: str = Field(
        "institution_id",
        min_length=1,
        description="the claim that holds the institution's id: a name, or a JSON pointer such as /org/id",
    )
    oidc_role_claim: str = Field(
        "role",
        min_length=1,
        description="the claim that holds admin, operator, read_only or auditor: a name, or a JSON pointer such as "
        "/realm_access/roles",
    )
    oidc_root_role: str | None = Field(
        None, description="the value of that claim which makes a token root; default: no token is"
    )
    oidc_clock_skew_seconds: float = Field(
        30.0, ge=0, le=300, description="how far the provider's clock and ours may disagree"
    )
    oidc_jwks_seconds: float = Field(
        300.0, gt=0, description="after how long the provider's keys are read again"
    )
    oidc_jwks_again_seconds: float = Field(
        10.0, gt=0, description="how often an unknown key may have them read before that"
    )
    oidc_jwks_stale_seconds: float = Field(
        3600.0, ge=0, description="how long older keys serve while the provider cannot be reached"
    )

    checkpoint_seconds: float = Field(60.0, gt=0, description="how often the head of the ledger is signed")

    webhook_delivery_days: float = Field(
        90.0, ge=1, description="how long webhook deliveries are kept after they were settled"
    )
    webhook_allow_private: bool = Field(
        False, description="whether webhooks may go over http and to private addresses; for development"
    )

    audit_seal_seconds: float = Field(60.0, gt=0, description="how often new audit rows are sealed")
    audit_seal_delay_seconds: float = Field(
        10.0,
        ge=0,
        description="how old audit rows are when they are sealed; what comes later is sealed apart",
    )

    expiry_tick_seconds: float = Field(
        1.0, gt=0, description="how often the expiry clerk looks for due positions"
    )
    lease_seconds: float = Field(10.0, gt=1, description="how long a leader keeps its lease unrenewed")

    @field_validator("cors_origins", "trusted_proxies", "oidc_algorithms", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("root_api_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("ROOT_API_KEY needs at least 16 characters")
        if value is not None and not (
            value.get_secret_value().isascii() and value.get_secret_value().isprintable()
        ):
            raise ValueError("ROOT_API_KEY goes in a header: letters, digits and signs of ASCII only")
        return value

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        if value is not None and SAFE_URL.fullmatch(value) is None:
            raise ValueError("this is an https address, or http on this machine, without query and fragment")
        return value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _traceable(cls, value: str | None) -> str | None:
        if value is not None and COLLECTOR_URL.fullmatch(value) is None:
            raise ValueError("this is http:// or https://, a host, and no query")
        if value is not None and not _is_there(OTLP):
            raise ValueError("traces need more packages: pip install 'escrowgrid[otel]'")
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not ALGORITHMS.issuperset(value):
            raise ValueError(f"OIDC_ALGORITHMS are some of {', '.join(sorted(ALGORITHMS))}")
        return value

    @field_validator("oidc_root_role")
    @classmethod
    def _no_lesser_role(cls, value: str | None) -> str | None:
        if value is not None and value.upper() in {"ADMIN", "OPERATOR", "READ_ONLY", "AUDITOR"}:
            raise ValueError("OIDC_ROOT_ROLE cannot be the name of another role")
        return value

    @model_validator(mode="after")
    def _payable(self) -> "Settings":
        for name in ("rate_capacity", "root_rate_capacity"):
            if 0 < getattr(self, name) < self.cost_max:
                raise ValueError(
                    f"{name.upper()} is 0 or at least COST_MAX: else some documents could never run"
                )
        return self

    @model_validator(mode="after")
    def _audience(self) -> "Settings":
        if self.oidc_issuer is not None and not self.oidc_audience:
            raise ValueError("OIDC_AUDIENCE is needed beside OIDC_ISSUER: others' tokens must not open this")
        return self

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("LOG_LEVEL is one of DEBUG, INFO, WARNING, ERROR")
        return value.upper()


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of what it is in
        return False
