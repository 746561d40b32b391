"""What a process has read of assets and templates, kept within a bound: neither ever changes."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from app.assets.model import AssetTemplate
from app.assets.service import Pair, fetch_terms_each
from app.kit.canonical import canonical_json
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    Reading = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

ASSETS_CACHED_MAX = 10_000
METADATA_CACHED_MAX = 32 * 1024 * 1024


class AssetCache:
    """What assets are and what their templates say, kept in this process: neither ever changes.

    Bounded by the number of assets and by the size of their metadata; the least used go first.
    """

    def __init__(
        self, *, assets_max: int = ASSETS_CACHED_MAX, metadata_max: int = METADATA_CACHED_MAX
    ) -> None:
        self._assets_max = assets_max
        self._metadata_max = metadata_max
        self._metadata_size = 0
        self._pairs: OrderedDict[str, tuple[Pair, int]] = OrderedDict()
        # One template serves many assets and may be large: it is kept once, as long as one of them is.
        self._templates: WeakValueDictionary[str, AssetTemplate] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._pairs)

    async def get(self, database: Database, scope: str, asset_id: str) -> Pair | None:
        """The asset and its template; None when `scope` sees no such asset."""
        return (await self.get_each(database, scope, [asset_id])).get(asset_id)

    async def get_each(self, database: Database, scope: str, asset_ids: Sequence[str]) -> Mapping[str, Pair]:
        """The same for many assets, with one transaction for all that are not known yet."""
        return await self.read_each(partial(database.reading, scope), scope, asset_ids)

    async def read_each(self, reading: "Reading", scope: str, asset_ids: Sequence[str]) -> Mapping[str, Pair]:
        """The same within somebody's transaction, which is asked for only what is not known yet."""
        # The scope is asked each time: what is kept was read for others, too.
        kept = {key: self._pairs[key][0] for key in asset_ids if key in self._pairs}
        found = {key: pair for key, pair in kept.items() if _sees(scope, pair[1])}
        missing = [key for key in dict.fromkeys(asset_ids) if key not in found]
        if missing:
            async with reading() as connection:
                read = await fetch_terms_each(connection, scope, missing)
            for asset, template in read.values():
                found[asset.id] = (asset, self._templates.setdefault(template.id, template))
        for key, pair in found.items():
            self._keep(key, pair)
        return found

    def templates(self, scope: str, ids: Sequence[str]) -> Mapping[str, AssetTemplate]:
        """Those of the templates that are known and that `scope` sees."""
        known = {key: self._templates.get(key) for key in ids}
        return {key: template for key, template in known.items() if template and _sees(scope, template)}

    def _keep(self, key: str, pair: Pair) -> None:
        if key in self._pairs:
            self._pairs.move_to_end(key)
            return
        size = len(canonical_json(pair[0].metadata))
        self._pairs[key] = (pair, size)
        self._metadata_size += size
        while len(self._pairs) > self._assets_max or self._metadata_size > self._metadata_max:
            _, (_, freed) = self._pairs.popitem(last=False)
            self._metadata_size -= freed


def _sees(scope: str, template: AssetTemplate) -> bool:
    return scope in (ALL_INSTITUTIONS, template.institution_id)
