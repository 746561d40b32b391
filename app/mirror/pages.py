"""Copies pages of events: each in one transaction with the rows it names, its personal values and its positions."""

from collections.abc import Mapping, Sequence

from app.kit.canonical import parse_json
from app.ledger import sealed, spelling, transfer
from app.ledger.model import Commitments, Event
from app.mirror import source
from app.mirror.model import (
    ASSETS,
    HOLDERS,
    INSTITUTION_KEYS,
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
from app.personal.sealing import CannotOpen
from app.personal.service import Holders
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

    def __init__(
        self, database: Database, lifecycles: Mapping[tuple[str, int], Lifecycle], holders: Holders
    ) -> None:
        self._database = database
        self._lifecycles = lifecycles
        self._holders = holders
        self._rows = PositionRows(lifecycles, holders)
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
            values = await self._opened(driver, events)
            named = _named(personal)
            if named:
                owners = sorted({(owner,) for owner, _holder_id in named})
                rows[INSTITUTION_KEYS] = await source.rows(driver, INSTITUTION_KEYS, owners)
                rows[HOLDERS] = await source.rows(driver, HOLDERS, sorted(named))
        epochs = await new_epochs(self._database, copy)
        _check_personal(events, values)
        holders = {row.key[1]: _holder_id(row) for row in personal}
        async with copy.page(token, {event.institution_id for event in events}) as driver:
            await copy.add_epochs(driver, epochs)
            for table in (*NAMED, INSTITUTION_KEYS, HOLDERS):
                if rows.get(table):
                    await copy.put(driver, table, rows[table])
            await transfer.adopt(driver, events)
            if personal:
                await copy.put(driver, PERSONAL, personal)
            await self._move_positions(driver, events, holders)
        copy.head, copy.hash = events[-1].global_sequence, events[-1].hash
        copy.know_epochs(epochs)
        self._remember(wanted)

    async def _opened(self, driver: Driver, events: Sequence[Event]) -> Mapping[str, sealed.Opened]:
        try:
            return await sealed.fetch(driver, self._holders, [event.id for event in events])
        except CannotOpen as error:
            event = next((event for event in events if event.id in str(error)), events[0])
            raise NotACopy(f"what is personal of event {event.global_sequence}: {error}") from None

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

    Raises `NotACopy` when one began before the end of the copy, or when its newest is not the ledger's: what the copy
    has beyond is lost.
    """
    async with source.reading(database, INSTITUTIONS) as driver:
        if await driver.fetchval(source.NONCE, copy.epoch) != copy.nonce:
            raise NotACopy(
                f"the ledger was restored, and its epoch {copy.epoch} is another one: {LOST_HISTORY}"
            )
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


def _check_personal(events: Sequence[Event], values: Mapping[str, sealed.Opened]) -> None:
    """Raises `NotACopy` for values that are not those their event committed to; what was erased is nothing."""
    for event in events:
        personal, salts = values.get(event.id, (sealed.NOTHING, sealed.NO_SALTS))
        found = spelling.commitments(personal, salts)
        for name in sealed.PARTS:
            kept = getattr(found, name)
            if kept is not None and kept != getattr(event.commitments, name):
                raise NotACopy(
                    f"the {name} kept for event {event.global_sequence} is not the one it committed to"
                )


def _named(personal: Sequence[Row]) -> set[tuple[str, str]]:
    """The holders that rows of personal values name."""
    return {(row.key[0], holder_id) for row in personal if (holder_id := _holder_id(row)) is not None}


def _holder_id(row: Row) -> str | None:
    values = parse_json(row.text)
    assert isinstance(values, Mapping), "a row is an object"
    found = values["holder_id"]
    return None if found is None else str(found)
