"""Seals signing secrets anew after the key that seals them was turned over."""

from dataclasses import dataclass

from app.storage.database import DatabaseRole, Driver, take_role
from app.webhooks.vault import CannotOpen, Vault, place_of

INSTITUTIONS = "SELECT DISTINCT institution_id FROM webhook_endpoints ORDER BY 1"
SECRETS = (
    "SELECT id, endpoint_id, sealed FROM webhook_secrets WHERE institution_id = $1 ORDER BY id FOR UPDATE"
)
RESEAL = "UPDATE webhook_secrets SET sealed = $3 WHERE institution_id = $1 AND id = $2"


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many secrets are sealed with the key in force now, and how many no key opens."""

    sealed: int = 0
    lost: int = 0


async def reseal(driver: Driver, vault: Vault) -> Resealed:
    """Seal every secret with the vault's key, one institution after the other; doing it twice does no harm."""
    async with driver.transaction():
        await take_role(driver, DatabaseRole.FEED, ())
        institutions = [row["institution_id"] for row in await driver.fetch(INSTITUTIONS)]
    sealed = lost = 0
    for institution_id in institutions:
        async with driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, (institution_id,))
            for row in await driver.fetch(SECRETS, institution_id):
                place = place_of(institution_id, row["endpoint_id"], row["id"])
                try:
                    secret = vault.open(row["sealed"], place)
                except CannotOpen:
                    lost += 1
                    continue
                await driver.execute(RESEAL, institution_id, row["id"], vault.seal(secret, place))
                sealed += 1
    return Resealed(sealed, lost)
