"""What the database itself refuses: triggers, row-level security, grants."""

from collections import defaultdict

import asyncpg
import pytest

ROLES = ("escrowgrid_owner", "escrowgrid_api", "escrowgrid_writer", "escrowgrid_feed")
TABLE_NAMES = """
SELECT relname AS name, relkind::text AS kind, relispartition AS part, relrowsecurity AS secured, relforcerowsecurity AS forced,
       relowner::regrole::text AS owner,
       EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'institution_id' AND NOT attisdropped) AS tenant
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
"""
# Tables without any tenant's rows. The api role has nothing on them, so that there is nothing to secure.
NO_TENANTS = {
    "alembic_version",
    "audit_seals",
    "checkpoints",
    "documents",
    "followers",
    "leases",
    "parked_events",
    "rate_buckets",
}
# What the mirror keeps: the keys of changed rows with their numbers, and how far a copy has come.
NO_TENANTS |= {"mirror_queue", "mirror_queue_place_seq", "mirror_copy"}
# The ids of the master keys, which are the installation's.
NO_TENANTS |= {"master_keys"}
# The tree over all events (hashes alone), and the transactions of the account that anchors it.
NO_TENANTS |= {"anchor_tree", "anchor_nodes", "anchor_transactions"}
# (table, trigger) → the events it refuses, as bits of pg_trigger.tgtype: 8 DELETE, 16 UPDATE, 32 TRUNCATE.
DELETE, UPDATE, TRUNCATE = 8, 16, 32
TRIGGERS = {
    ("asset_templates", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("policies", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("positions", "never_deleted"): DELETE | TRUNCATE,
    ("ledger_events", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("epochs", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("ledger_head", "never_deleted"): DELETE | TRUNCATE,
    ("institution_heads", "never_deleted"): DELETE | TRUNCATE,
    ("checkpoints", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("anchor_nodes", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("audit_seals", "append_only"): UPDATE | DELETE | TRUNCATE,
    ("audit_events", "append_only"): UPDATE | DELETE,
    ("audit_events", "never_truncated"): TRUNCATE,
    ("holders", "never_deleted"): DELETE | TRUNCATE,
    ("institution_keys", "never_deleted"): DELETE | TRUNCATE,
}
# Triggers that refuse some rows alone: a holder who was erased.
CONDITIONAL = {("holders", "stays_erased")}
# Triggers that refuse nothing: they note after a statement which rows the mirror has to copy anew.
NOTED = {
    ("institutions", "noted_insert"),
    ("api_keys", "noted_insert"),
    ("api_keys", "noted_update"),
    ("asset_templates", "noted_insert"),
    ("assets", "noted_insert"),
    ("policies", "noted_insert"),
    ("webhook_endpoints", "noted_insert"),
    ("webhook_endpoints", "noted_update"),
    ("webhook_secrets", "noted_insert"),
    ("webhook_secrets", "noted_update"),
    ("webhook_secrets", "noted_delete"),
    ("webhook_deliveries", "noted_insert"),
    ("webhook_deliveries", "noted_update"),
    ("webhook_deliveries", "noted_delete"),
    ("audit_events", "noted_insert"),
    ("personal_data", "noted_update"),
    ("personal_data", "noted_delete"),
    ("holders", "noted_insert"),
    ("holders", "noted_update"),
    ("institution_keys", "noted_insert"),
    ("institution_keys", "noted_update"),
    ("anchors", "noted_insert"),
    ("anchors", "noted_update"),
    ("anchor_transactions", "noted_insert"),
    ("anchor_transactions", "noted_update"),
    ("anchor_records", "noted_insert"),
    ("anchor_records", "noted_update"),
}
# Rows that are work under way, or a log of it, not records: they may go.
WORK = {"documents", "leases", "mirror_queue", "parked_events", "rate_buckets", "webhook_secrets"}
WORK |= {"webhook_deliveries"}
API, WRITER, FEED = "escrowgrid_api", "escrowgrid_writer", "escrowgrid_feed"
# Of every tenant table; the feed reads those that followers need.
USUAL = {("api_scope", API, "SELECT"), ("writer_scope", WRITER, "ALL")}
FEED_READS = ("feed_all", FEED, "SELECT")
# Tables whose rows have another owner than one institution, or are not the writer's to see.
UNUSUAL = {
    "ledger_events": USUAL | {FEED_READS, ("writer_keys", WRITER, "SELECT")},
    "personal_data": USUAL | {("owner_erases", "escrowgrid_owner", "ALL")},
    "positions": USUAL | {("owner_erases", "escrowgrid_owner", "ALL")},
    "ledger_head": {
        ("api_root", API, "SELECT"),
        ("writer_reads", WRITER, "SELECT"),
        ("writer_moves", WRITER, "UPDATE"),
        FEED_READS,
    },
    "epochs": {("api_scope", API, "SELECT"), ("writer_all", WRITER, "ALL"), FEED_READS},
    "audit_events": {("api_scope", API, "SELECT"), ("writer_scope", WRITER, "INSERT")},
    # What is on a chain is public: everybody who has a scope reads it.
    "anchors": {("api_scope", API, "SELECT"), ("writer_all", WRITER, "ALL"), FEED_READS},
    "anchor_chains": {("api_scope", API, "SELECT"), ("writer_all", WRITER, "ALL"), FEED_READS},
    # What comes before its partition moves there, by the owner's function alone.
    "audit_events_default": {("owner_moves", "escrowgrid_owner", "ALL")},
}
# What the feed must not read: secrets, and who asked for what.
KEPT_FROM_FEED = {"api_keys", "audit_events", "webhook_secrets"}


@pytest.fixture(scope="module")
async def tables(catalogue: asyncpg.Connection) -> dict[str, asyncpg.Record]:
    return {row["name"]: row for row in await catalogue.fetch(TABLE_NAMES)}


async def test_every_tenant_table_is_secured(tables: dict[str, asyncpg.Record]) -> None:
    """Walks the catalogue: a new table is either secured, also against its owner, or listed as nobody's."""
    bare = {name for name, table in tables.items() if not (table["secured"] and table["forced"])}
    assert bare == NO_TENANTS
    assert not {name for name in NO_TENANTS if tables[name]["tenant"]}
    kinds = {table["kind"] for name, table in tables.items() if name != "mirror_queue_place_seq"}
    assert kinds <= {"r", "p"}, "a view reads as its owner"


async def test_every_policy_is_expected(
    catalogue: asyncpg.Connection, tables: dict[str, asyncpg.Record]
) -> None:
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for row in await catalogue.fetch("SELECT * FROM pg_policies WHERE schemaname = 'public'"):
        assert row["permissive"] == "PERMISSIVE"
        for role in row["roles"]:
            found[row["tablename"]].add((row["policyname"], role, row["cmd"]))
    assert set(found) == {name for name, table in tables.items() if not table["part"]} - NO_TENANTS | {
        "audit_events_default"
    }
    for table, policies in found.items():
        assert policies - {FEED_READS} == UNUSUAL.get(table, USUAL) - {FEED_READS}, table
    assert found["ledger_events"] >= {FEED_READS}


async def test_policies_name_the_scope(catalogue: asyncpg.Connection) -> None:
    """Nobody's policy is true for all rows, but the feed's, and the writer's on what no tenant owns."""
    for row in await catalogue.fetch("SELECT * FROM pg_policies WHERE schemaname = 'public'"):
        words = f"{row['qual'] or ''} {row['with_check'] or ''}"
        free = row["policyname"] in ("feed_all", "writer_all", "writer_reads", "writer_moves", "owner_moves")
        assert ("escrowgrid.scope" in words) != free, row
        if row["cmd"] == "ALL":
            assert row["with_check"], row
        if free and row["policyname"] != "feed_all":
            assert row["tablename"] in (
                "ledger_head",
                "epochs",
                "anchors",
                "anchor_chains",
                "audit_events_default",
            )


async def test_triggers_are_always_on(
    catalogue: asyncpg.Connection, tables: dict[str, asyncpg.Record]
) -> None:
    rows = await catalogue.fetch(
        "SELECT tgrelid::regclass::text AS table, tgname AS name, tgtype::int AS type, tgenabled::text AS enabled "
        "FROM pg_trigger WHERE NOT tgisinternal"
    )
    assert {row["enabled"] for row in rows} == {"A"}
    noting = [row for row in rows if (row["table"], row["name"]) in NOTED]
    assert len(noting) == len(NOTED)
    assert not any(row["type"] & 1 for row in noting), "for the statement, not for each row"
    rows = [row for row in rows if row not in noting and (row["table"], row["name"]) not in CONDITIONAL]
    parts = {name for name, table in tables.items() if table["part"]}
    found = {(row["table"], row["name"]): row["type"] & (DELETE | UPDATE | TRUNCATE) for row in rows}
    wanted = TRIGGERS | {(part, "append_only"): UPDATE | DELETE for part in parts}
    assert found == wanted | {(part, "never_truncated"): TRUNCATE for part in parts}
    assert all(row["type"] & 2 for row in rows), "before the statement or row, not after"


APPEND_ONLY = sorted({table for table, _trigger in TRIGGERS})


@pytest.mark.parametrize("session", ["origin", "replica"])
@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_even_the_superuser_is_refused(catalogue: asyncpg.Connection, table: str, session: str) -> None:
    refused = sum(events for (name, _trigger), events in TRIGGERS.items() if name == table)
    column = await catalogue.fetchval(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 1", table
    )
    statements = {
        UPDATE: f"UPDATE {table} SET {column} = {column}",
        DELETE: f"DELETE FROM {table}",
        TRUNCATE: f"TRUNCATE {table} CASCADE",
    }
    for event, statement in statements.items():
        if not refused & event or (table == "audit_events" and event != TRUNCATE):
            continue  # the audit's are row triggers: the test below gives them a row
        transaction = catalogue.transaction()
        await transaction.start()
        await catalogue.execute(f"SET LOCAL session_replication_role = {session}")
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await catalogue.execute(statement)
        await transaction.rollback()


@pytest.mark.parametrize("moment", ["now()", "'2001-01-01'"], ids=["partition", "default"])
@pytest.mark.parametrize("where", ["audit_events", "part"])
async def test_audit_rows_stay_in_every_partition(
    catalogue: asyncpg.Connection, moment: str, where: str
) -> None:
    transaction = catalogue.transaction()
    await transaction.start()
    part = await catalogue.fetchval(
        "INSERT INTO audit_events (id, occurred_at, actor_id, actor_role, operation, action, resource_type, outcome, "
        f"request_id, payload) VALUES ('aud_1', {moment}, 'root', 'ROOT', 'o', 'A', 'r', 'SUCCESS', 'req', '{{}}') "
        "RETURNING tableoid::regclass::text"
    )
    table = part if where == "part" else where
    for statement in (f"UPDATE {table} SET payload = '{{}}'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            async with catalogue.transaction():
                await catalogue.execute(statement)
    await transaction.rollback()


async def privileges(catalogue: asyncpg.Connection, role: str, verb: str) -> set[str]:
    """The tables on which a role has a privilege, be it on one column only."""
    test = (
        "has_any_column_privilege"
        if verb in ("SELECT", "INSERT", "UPDATE", "REFERENCES")
        else "has_table_privilege"
    )
    rows = await catalogue.fetch(
        f"SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        f"AND {test}($1, oid, $2)",
        role,
        verb,
    )
    return {row["relname"] for row in rows}


async def test_only_the_owner_owns(catalogue: asyncpg.Connection, tables: dict[str, asyncpg.Record]) -> None:
    assert {table["owner"] for table in tables.values()} == {"escrowgrid_owner"}
    owners = await catalogue.fetch(
        "SELECT proowner::regrole::text AS owner FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    assert {row["owner"] for row in owners} == {"escrowgrid_owner"}


async def test_roles_can_do_no_more_than_they_are_granted(catalogue: asyncpg.Connection) -> None:
    for row in await catalogue.fetch("SELECT * FROM pg_roles WHERE rolname = ANY($1::text[])", list(ROLES)):
        assert not row["rolsuper"], row
        assert not row["rolbypassrls"], row
        assert not row["rolcreaterole"], row
        assert not row["rolcreatedb"], row
        assert not row["rolreplication"], row
        assert not row["rolcanlogin"], row
    members = await catalogue.fetch(
        "SELECT m.roleid::regrole::text AS role, m.member::regrole::text AS member FROM pg_auth_members m "
        "WHERE m.member::regrole::text = ANY($1::text[])",
        list(ROLES),
    )
    assert not members, "no role of ours has another one's rights"


async def test_the_servers_login_has_three_roles_and_inherits_none(catalogue: asyncpg.Connection) -> None:
    login = await catalogue.fetchrow("SELECT * FROM pg_roles WHERE rolname = 'escrowgrid_test'")
    assert login is not None
    assert not any(
        login[right] for right in ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolinherit")
    )
    roles = await catalogue.fetch(
        "SELECT roleid::regrole::text AS role FROM pg_auth_members WHERE member = 'escrowgrid_test'::regrole"
    )
    assert {row["role"] for row in roles} == {API, WRITER, FEED}
    for verb in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        assert await privileges(catalogue, "escrowgrid_test", verb) == set(), verb


async def test_the_api_and_the_feed_only_read(
    catalogue: asyncpg.Connection, tables: dict[str, asyncpg.Record]
) -> None:
    for role in (API, FEED):
        for verb in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
            assert await privileges(catalogue, role, verb) == set(), (role, verb)
    secured = {name for name, table in tables.items() if not table["part"]} - NO_TENANTS
    assert await privileges(catalogue, API, "SELECT") <= secured, "what the api reads is secured"
    assert not await privileges(catalogue, FEED, "SELECT") & KEPT_FROM_FEED


async def test_the_writer_appends(catalogue: asyncpg.Connection) -> None:
    for verb in ("TRUNCATE", "REFERENCES", "TRIGGER"):
        assert await privileges(catalogue, WRITER, verb) == set(), verb
    assert await privileges(catalogue, WRITER, "DELETE") == WORK
    refused = {table for (table, _trigger), events in TRIGGERS.items() if events & UPDATE}
    assert not await privileges(catalogue, WRITER, "UPDATE") & (
        refused | {"personal_data", "assets", "institutions"}
    )
    assert await privileges(catalogue, WRITER, "INSERT") >= {"positions", "ledger_events", "audit_events"}


async def test_the_writer_updates_no_identity(catalogue: asyncpg.Connection) -> None:
    """What names a row, and what was agreed, is written once."""
    for table, fixed in {
        "positions": (
            "institution_id",
            "id",
            "asset_id",
            "amount",
            "currency",
            "created_at",
            "lifecycle_name",
        ),
        "api_keys": ("institution_id", "id", "role", "scopes", "created_at", "expires_at"),
        "institution_heads": ("institution_id",),
    }.items():
        for column in fixed:
            allowed = await catalogue.fetchval(
                "SELECT has_column_privilege($1, $2, $3, 'UPDATE')", WRITER, table, column
            )
            assert not allowed, f"{table}.{column}"


async def test_partitions_are_reached_through_their_parent_alone(
    catalogue: asyncpg.Connection, tables: dict[str, asyncpg.Record]
) -> None:
    parts = {name for name, table in tables.items() if table["part"]}
    assert len(parts) >= 5
    for role in (API, WRITER, FEED):
        for verb in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert not await privileges(catalogue, role, verb) & parts, (role, verb)


async def test_the_public_has_nothing(catalogue: asyncpg.Connection) -> None:
    rows = await catalogue.fetch(
        "SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a "
        "WHERE c.relnamespace = 'public'::regnamespace AND a.grantee = 0"
    )
    assert not rows
    definers = await catalogue.fetch(
        "SELECT proname, array_to_string(proconfig, ',') AS config, "
        "  EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE a.grantee = 0) AS open "
        "FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
    )
    for row in definers:
        assert not row["open"], row["proname"]
        assert "search_path=" in (row["config"] or ""), row["proname"]
    assert not await catalogue.fetchval(
        "SELECT EXISTS (SELECT FROM unnest($1::text[]) r WHERE has_schema_privilege(r, 'public', 'CREATE'))",
        [API, WRITER, FEED],
    )
