"""What a resolver works with: the parts of the server that outlive a request, and what is known of a request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.anchoring.news import News
from app.assets.cache import AssetCache
from app.audit.recorder import Recorder
from app.audit.watch import Watch
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.kit.spans import Tracer
from app.ledger.bell import Topic
from app.ledger.replica import Replica
from app.ledger.tail import Tail
from app.ledger.writer import Writer
from app.personal.service import Holders
from app.positions.lifecycle import Lifecycle
from app.settings import Settings
from app.storage.database import Database
from app.webhooks.vault import Vault


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the server that outlive a request; made once by `create_app`."""

    settings: Settings
    clock: Clock
    ids: Ids
    database: Database
    writer: Writer
    tail: Tail
    recorder: Recorder
    assets: AssetCache
    lifecycles: Mapping[tuple[str, int], Lifecycle]
    vault: Vault
    holders: Holders
    watch: Watch
    anchor_news: News
    # Has every process know of something beside the ledger.
    tell: Callable[[Topic], None]
    replica: Replica | None = None
    # Where operations are traced, if anywhere.
    tracer: Tracer | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of the HTTP request or socket that an operation came by."""

    id: str
    client_address: str | None = None
    idempotency_key: str | None = None
    last_event_id: str | None = None
