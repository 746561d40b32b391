"""A crowded database: 100,000 positions of three institutions, and everything around them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from app.kit.ids import Ids
from app.main import Parts, assemble
from app.personal.masters import Masters, masters_of
from app.personal.service import Holders
from app.principal import ROLE_SCOPES, Principal, Role
from app.settings import Settings
from app.storage.database import Address, Database
from app.storage.provide import with_database, with_login

CROWD = "escrowgrid_crowd"
LOGIN, PASSWORD = "escrowgrid_test", "only-for-tests"
POSITIONS = 100_000
INSTITUTIONS = tuple(f"inst_{number:026}" for number in (1, 2, 3))
# Of a hundred positions 60 belong to the first, five to the last. Of lists that are short for each institution, the
# three have 300 rows each, and 2,990 others the rest. Rare currencies, states and regions are really rare.
FILL = """
CREATE TEMP TABLE n AS
SELECT g, CASE WHEN g % 20 < 12 THEN 1 WHEN g % 20 < 19 THEN 2 ELSE 3 END AS inst, timestamptz '2026-01-01 00:00+00'
  + g * interval '7 seconds' AS at FROM generate_series(1::bigint, 100000) g;

INSERT INTO institutions
SELECT 'inst_' || lpad(g::text, 26, '0'), 'Institution ' || g, '{US,SG}', '{CONSTRUCTION}',
       timestamptz '2025-01-01' + g * interval '1 hour', now() FROM generate_series(1, 3000) g;
INSERT INTO institution_heads SELECT id, 0, sha256('') FROM institutions;

INSERT INTO api_keys
SELECT 'inst_' || lpad((CASE WHEN g <= 900 THEN g % 3 + 1 ELSE g % 2990 + 4 END)::text, 26, '0'), 'key_' || lpad(g::text, 26, '0'), 'Key ' || g, 'OPERATOR', '{read}',
       'eg_' || g, sha256(g::text::bytea), timestamptz '2026-01-01' + g * interval '1 minute', now(),
       CASE WHEN g % 7 = 0 THEN now() + g * interval '1 hour' END, CASE WHEN g % 5 = 0 THEN now() END,
       CASE WHEN g % 11 = 0 THEN now() END
FROM generate_series(1, 20000) g;

INSERT INTO asset_templates
SELECT 'inst_' || lpad((CASE WHEN g <= 900 THEN g % 3 + 1 ELSE g % 2990 + 4 END)::text, 26, '0'), 'tmpl_' || lpad(g::text, 26, '0'), 'Template ' || g / 30, g % 30 + 1,
       CASE WHEN g % 200 < 3 THEN 'CONSTR_RETAINAGE' ELSE 'CONSTR_ESCROW' END, 'CONSTRUCTION',
       CASE WHEN g % 200 < 3 THEN 'SG' ELSE 'US' END, 'escrow', 1, '{}', NULL, false, NULL,
       timestamptz '2026-01-01' + g * interval '1 minute'
FROM generate_series(1, 20000) g;

INSERT INTO assets
SELECT 'inst_' || lpad((g % 3 + 1)::text, 26, '0'), 'ast_' || lpad(g::text, 26, '0'),
       'tmpl_' || lpad((g % 900 + CASE WHEN g % 900 = 0 THEN 900 ELSE 0 END)::text, 26, '0'),
       'Asset ' || g, '{}', timestamptz '2026-01-01' + g * interval '1 minute', now()
FROM generate_series(1, 30000) g WHERE g % 3 < 2 OR g <= 3000;

INSERT INTO policies
SELECT 'inst_' || lpad((CASE WHEN g <= 900 THEN g % 3 + 1 ELSE g % 2990 + 4 END)::text, 26, '0'), 'pol_' || lpad(g::text, 26, '0'),
       CASE WHEN g % 200 < 3 THEN 'SG' ELSE 'US' END, g, 1, 1000000, NULL,
       timestamptz '2026-01-01' + g * interval '1 minute'
FROM generate_series(1, 20000) g;

INSERT INTO positions (institution_id, id, asset_id, holder_id, external_reference, currency, amount, funded,
                       released, refunded, held, state, stage, version, lifecycle_name, lifecycle_version, expires_at,
                       created_at, updated_at, closed_at)
SELECT 'inst_' || lpad(inst::text, 26, '0'), 'pos_' || lpad(g::text, 26, '0'),
       'ast_' || lpad((((g * 7919) % CASE WHEN inst = 3 THEN 998 ELSE 9998 END) * 3 + inst - 1 + 3)::text, 26, '0'),
       'hld_' || lpad((inst * 100000 + (g * 31) % 20000)::text, 26, '0'), CASE WHEN g % 3 = 0 THEN 'Reference ' || g END,
       CASE WHEN g % 1000 < 6 THEN 'CHF' WHEN g % 3 = 0 THEN 'EUR' ELSE 'USD' END, (g * 7919) % 1000003 + 1, 0, 0, 0, 0,
       CASE WHEN g % 2000 < 12 THEN 'CREATED' ELSE 'CANCELLED' END,
       CASE WHEN g % 2000 < 12 THEN 'CREATED' ELSE 'CANCELLED' END, 1, 'escrow', 1,
       CASE WHEN g % 2 = 0 THEN timestamptz '2050-01-01' + (g * 104729) % 99991 * interval '1 minute' END, at, at,
       CASE WHEN g % 2000 < 12 THEN NULL ELSE at END
FROM n;

INSERT INTO ledger_events
SELECT g, 'inst_' || lpad(inst::text, 26, '0'), row_number() OVER (PARTITION BY inst ORDER BY g),
       'evt_' || lpad(g::text, 26, '0'), 'pos_' || lpad(g::text, 26, '0'), 1,
       CASE WHEN g % 1000 < 6 THEN 'POSITION_STATE_CHANGED' ELSE 'POSITION_CREATED' END, 1, NULL,
       CASE WHEN g % 1000 < 6 THEN 'CANCELLED' ELSE 'CREATED' END, NULL, 'CREATED', 'NONE',
       CASE WHEN g % 1000 < 6 THEN 'CHF' WHEN g % 3 = 0 THEN 'EUR' ELSE 'USD' END, 0, '[]', 0, 0, 0, 0, '{}', '{}',
       'key_' || lpad((g % 300)::text, 26, '0'), 'OPERATOR', 'req_1', 'inst_' || lpad(inst::text, 26, '0'), 'k' || g,
       sha256(''), 'tmpl_' || lpad('1', 26, '0'), NULL, 'escrow', 1, at, at, NULL, NULL, NULL, sha256(''), sha256(''), 1
FROM n ORDER BY g;
UPDATE ledger_head SET global_sequence = 100000, recorded_at = (SELECT max(recorded_at) FROM ledger_events);
UPDATE institution_heads h SET sequence = s.sequence
FROM (SELECT institution_id, max(sequence) AS sequence FROM ledger_events GROUP BY 1) s
WHERE s.institution_id = h.institution_id;

INSERT INTO personal_data SELECT 'inst_' || lpad(inst::text, 26, '0'), 'evt_' || lpad(g::text, 26, '0'),
       'pos_' || lpad(g::text, 26, '0'), 'hld_' || lpad((inst * 100000 + (g * 31) % 20000)::text, 26, '0')
FROM n WHERE g % 7 = 0;

INSERT INTO audit_events
SELECT 'aud_' || lpad(g::text, 26, '0'), now() + g * interval '1 second', 'inst_' || lpad(inst::text, 26, '0'), 'root',
       'ROOT', 'createAsset', CASE WHEN g % 1000 < 6 THEN 'API_KEY_CREATED' ELSE 'ASSET_CREATED' END, 'asset',
       'ast_' || g, CASE WHEN g % 1000 < 6 THEN 'FAILURE' ELSE 'SUCCESS' END, NULL, 'req_1', NULL, '{}'
FROM n WHERE g <= 50000;

INSERT INTO webhook_endpoints
SELECT 'inst_' || lpad((CASE WHEN g <= 900 THEN g % 3 + 1 ELSE g % 2990 + 4 END)::text, 26, '0'),
       'hook_' || lpad(g::text, 26, '0'), 'https://example.test/' || g, '', NULL, NULL, true, NULL, 0, 'root',
       timestamptz '2026-01-01' + g * interval '1 minute', now(), NULL
FROM generate_series(1, 20000) g;

INSERT INTO webhook_deliveries (institution_id, id, endpoint_id, event_id, position_id, sequence, state, attempts, step,
                                next_attempt_at, created_at, updated_at)
SELECT 'inst_' || lpad(inst::text, 26, '0'), 'dlv_' || lpad(g::text, 26, '0'),
       'hook_' || lpad((inst - 1 + 3 * (g % 299 + 1))::text, 26, '0'), 'evt_' || lpad(g::text, 26, '0'),
       'pos_' || lpad(g::text, 26, '0'), g, CASE WHEN g % 1000 < 6 THEN 'FAILED' ELSE 'DELIVERED' END, 1, 0, NULL, at, at
FROM n WHERE g <= 50000;

INSERT INTO anchors (id, number, revision, mode, state, chain_id, contract, log_id, epoch, previous_size, previous_root,
                     size, root, first, count, follows, since, tx_hash, block_number, created_at, changed_at, final_at)
SELECT 'anc_' || lpad(g::text, 26, '0'), g, g, mode, state, 1, '0x' || repeat('0', 40), sha256('log'), 1,
       CASE mode WHEN 'ANCHOR' THEN g END, CASE mode WHEN 'ANCHOR' THEN sha256('') END,
       CASE mode WHEN 'ANCHOR' THEN g + 1 END, CASE mode WHEN 'ANCHOR' THEN sha256('') END,
       CASE mode WHEN 'RECORD' THEN g END, CASE mode WHEN 'RECORD' THEN 1 END,
       CASE mode WHEN 'BEGIN' THEN sha256('') END, CASE mode WHEN 'BEGIN' THEN g END,
       sha256(g::text::bytea), g, at, at, CASE state WHEN 'FINAL' THEN at END
FROM n, LATERAL (SELECT CASE WHEN g % 1000 = 0 THEN 'RECORD' WHEN g % 10001 = 0 THEN 'BEGIN' ELSE 'ANCHOR' END AS mode,
                        CASE WHEN g > 49960 THEN 'MINED' WHEN g % 2000 = 7 THEN 'SUPERSEDED' ELSE 'FINAL' END AS state) AS v
WHERE g <= 50000;

DROP TABLE n;
ANALYZE;
"""


@dataclass(frozen=True)
class Crowd:
    """The crowded database, and a server's parts that run on it."""

    parts: Parts
    url: str


def tenant(institution_id: str, role: Role = Role.ADMIN) -> Principal:
    return Principal("key_test", "test", role, institution_id, ROLE_SCOPES[role])


def called(holder_id: str) -> str:
    """What a holder of the crowd is called."""
    return f"Holder {int(holder_id[-5:])}"


class Known(Ids):
    """Gives ids that are there already."""

    def __init__(self, known: list[str]) -> None:
        self._known = iter(known)

    def new(self, prefix: str) -> str:
        return next(self._known)


async def hold(owner: asyncpg.Connection, masters: Masters) -> None:
    """Seal the holders whose ids the positions have."""
    rows = await owner.fetch("SELECT DISTINCT institution_id, holder_id FROM positions")
    found = {(row["institution_id"], called(row["holder_id"])): row["holder_id"] for row in rows}
    masters.make()
    await Holders(masters).hold(owner, found, Known([found[pair] for pair in sorted(found)]))
    await owner.execute("ANALYZE holders")


@pytest.fixture(scope="session")
async def crowd(admin_url: str, template: str) -> AsyncIterator[Crowd]:
    """Filled once for all tests, by SQL: no test may change it."""
    server = await asyncpg.connect(admin_url)
    await server.execute(f'DROP DATABASE IF EXISTS "{CROWD}" WITH (FORCE)')
    await server.execute(f'CREATE DATABASE "{CROWD}" TEMPLATE "{template}"')
    url = with_database(admin_url, CROWD)
    owner = await asyncpg.connect(url)
    await owner.execute(FILL)
    await hold(owner, masters_of(Settings()))
    await owner.close()
    # Its deliveries are from long ago.
    settings = Settings(pool_size_max=5, webhook_delivery_days=100_000)
    parts = assemble(settings, Address.of(with_login(url, LOGIN, PASSWORD), owner_url=url))
    async with parts.running():
        yield Crowd(parts, url)
    await server.execute(f'DROP DATABASE "{CROWD}" WITH (FORCE)')
    await server.close()


@dataclass
class Traffic:
    """What went over the connections that queries use: each statement with its parameters."""

    sent: list[tuple[str, Any]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)

    @property
    def statements(self) -> list[str]:
        return [text for text, _values in self.sent if not text.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]

    @property
    def transactions(self) -> list[str]:
        """How they began and ended, in a word."""
        return [text.split()[0].rstrip(";") for text, _values in self.sent if text not in self.statements]


@contextmanager
def listening(database: Database) -> Iterator[Traffic]:
    """All that is sent, be it through SQLAlchemy (which prepares it) or by a slice to the driver itself."""
    traffic = Traffic()
    heard: dict[Any, Any] = {}
    engine = database.engine.sync_engine

    def execute(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        traffic.sent.append((statement, parameters))

    def checked_out(connection: Any, _record: Any, _proxy: Any) -> None:
        driver = connection.driver_connection
        traffic.connections.add(id(driver))
        if driver not in heard:
            heard[driver] = lambda record: traffic.sent.append((record.query, record.args))
            driver.add_query_logger(heard[driver])

    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine.pool, "checkout", checked_out)
    try:
        yield traffic
    finally:
        event.remove(engine, "before_cursor_execute", execute)
        event.remove(engine.pool, "checkout", checked_out)
        for driver, logger in heard.items():
            driver.remove_query_logger(logger)
