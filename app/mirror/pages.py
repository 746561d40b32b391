"""Copies pages of events: each in one transaction with the rows it names, its personal values and its positions."""

from collections.abc import Mapping, Sequence

from app.kit.canonical import Json, parse_json
from app.ledger import spelling, transfer
from app.ledger.model import Commitments, Event, Personal, Salts
from app.mirror import source
from app.mirror.model import (
    ASSETS,
    INSTITUTIONS,
    LOST_HISTORY,
    PERSONAL,
    POLICIES,
    TEMPLATES,
    NotACopy,
    Row,
    Table,
)
from app.mirror.store import Copy
from app.positions.lifecycle import Lifecycle
from app.positions.model import Held, Position, opened
from app.positions.rows import COLUMNS, PositionRows, position_of
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, Driver

KNOWN_MAX = 100_000
POSITIONS = f"SELECT {', '.join(COLUMNS)} FROM positions WHERE id = ANY($1::text[])"
NAMED = (INSTITUTIONS, TEMPLATES, ASSETS, POLICIES)

Keys = dict[Table, set[tuple[str, ...]]]


class Pages:
    """One per follower. It remembers which rows it has brought over, so that it need not ask for each event."""

    def __init__(self, database: Database, lifecycles: Mapping[tuple[str, int], Lifecycle]) -> None:
        self._database = database
        self._lifecycles = lifecycles
        self._rows = PositionRows(lifecycles)
        self._known: set[tuple[str, tuple[str, ...]]] = set()

    async def copy(self, copy: Copy, events: Sequence[Event], token: int) -> None:
        """Copy these events, which come right behind the copy's head."""
        wanted = self._wanted(events)
        async with source.reading(self._database, PERSONAL) as driver:
            rows = {
                table: await source.rows(driver, table, list(keys)) for table, keys in wanted.items() if keys
            }
            keys = [
                (event.institution_id, event.id) for event in events if event.commitments != Commitments()
            ]
            personal = await source.rows(driver, PERSONAL, keys) if keys else []
        epochs = await new_epochs(self._database, copy)
        holders = _holders(events, personal)
        async with copy.page(token, {event.institution_id for event in events}) as driver:
            await copy.add_epochs(driver, epochs)
            for table in NAMED:
                if rows.get(table):
                    await copy.put(driver, table, rows[table])
            await transfer.adopt(driver, events)
            if personal:
                await copy.put(driver, PERSONAL, personal)
            await self._move_positions(driver, events, holders)
        copy.head, copy.hash = events[-1].global_sequence, events[-1].hash
        copy.epoch = max([copy.epoch, *(row[0] for row in epochs)])
        self._remember(wanted)

    def _wanted(self, events: Sequence[Event]) -> Keys:
        """The rows that these events name and that may not be on the other side yet."""
        wanted: Keys = {table: set() for table in NAMED}
        for event in events:
            owner = event.institution_id
            wanted[INSTITUTIONS].add((owner,))
            wanted[TEMPLATES].add((owner, event.template_id))
            if event.policy_id is not None:
                wanted[POLICIES].add((owner, event.policy_id))
            if event.position_version == 1:
                wanted[ASSETS].add((owner, str(event.data.get("assetId"))))
        return {
            table: {key for key in keys if (table.name, key) not in self._known}
            for table, keys in wanted.items()
        }

    def _remember(self, wanted: Keys) -> None:
        if len(self._known) > KNOWN_MAX:
            self._known.clear()
        self._known.update((table.name, key) for table, keys in wanted.items() for key in keys)

    async def _move_positions(
        self, driver: Driver, events: Sequence[Event], holders: Mapping[str, str | None]
    ) -> None:
        """Positions as the ledger's writer would leave them after these events."""
        made = {event.position_id for event in events if event.position_version == 1}
        others = sorted({event.position_id for event in events} - made)
        positions = {row["id"]: position_of(row) for row in await driver.fetch(POSITIONS, others)}
        for event in events:
            if event.position_version == 1:
                positions[event.position_id] = _opened(event, holders.get(event.id))
            if event.position_id not in positions:
                raise NotACopy(
                    f"position {event.position_id} of event {event.global_sequence} is not on the mirror"
                )
            if (event.lifecycle_name, event.lifecycle_version) not in self._lifecycles:
                raise NotACopy(f"the lifecycle of event {event.global_sequence} is not known to this version")
        await self._rows.write(
            driver, [(Held(positions[event.position_id], "", ""), event) for event in events]
        )


async def new_epochs(database: Database, copy: Copy) -> list[source.Values]:
    """Epochs that the copy does not know. Read after events, they are all that those belong to.

    Raises `NotACopy` when one began before the end of the copy: what the copy has beyond is lost.
    """
    async with source.reading(database, INSTITUTIONS) as driver:
        found = await source.values(driver, source.EPOCHS, copy.epoch)
    for epoch, scope, starts_after, *_others in found:
        if scope == ALL_INSTITUTIONS and starts_after < copy.head:
            raise NotACopy(
                f"the ledger was restored to event {starts_after} (epoch {epoch}), the mirror has {copy.head} events: "
                f"{LOST_HISTORY}"
            )
    return found


def _opened(event: Event, holder: str | None) -> Position:
    try:
        return opened(event, holder)
    except (KeyError, ValueError, TypeError, ArithmeticError):
        raise NotACopy(f"the data of event {event.global_sequence} does not say what was agreed on") from None


def _holders(events: Sequence[Event], personal: Sequence[Row]) -> dict[str, str | None]:
    """The holder that each event names; raises `NotACopy` for values that are not those it committed to."""
    by_id = {event.id: event for event in events}
    holders = {}
    for row in personal:
        event, values = by_id[row.key[1]], parse_json(row.text)
        assert isinstance(values, Mapping), "a row is an object"
        kept = Personal(values["holder_reference"], values["reason"], values["metadata"])  # type: ignore[arg-type]
        salts = Salts(*(_bytes(values[f"{name}_salt"]) for name in ("holder", "reason", "metadata")))
        found, sealed = spelling.commitments(kept, salts), event.commitments
        for name, value in (
            ("holder", kept.holder_reference),
            ("reason", kept.reason),
            ("metadata", kept.metadata),
        ):
            is_erased = value is None and getattr(salts, name) is None
            if not is_erased and getattr(found, name) != getattr(sealed, name):
                raise NotACopy(
                    f"the {name} kept for event {event.global_sequence} is not the one it committed to"
                )
        holders[event.id] = kept.holder_reference
    return holders


def _bytes(value: Json) -> bytes | None:
    return None if value is None else bytes.fromhex(str(value).removeprefix("\\x"))
