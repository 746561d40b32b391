"""Puts anchoring together as the settings say; whoever imports this loads web3."""

from collections.abc import Callable

from app.anchoring.chain import Chain
from app.anchoring.keys import signer_from
from app.anchoring.rounds import Rounds
from app.anchoring.worker import Anchoring
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.settings import Settings
from app.storage.database import Database


def anchoring(
    database: Database, settings: Settings, clock: Clock, ids: Ids, tell: Callable[[], None]
) -> Anchoring:
    """The follower; raises `Invalid` when its key cannot be used."""
    url, contract, chain_id = settings.chain_url, settings.chain_contract, settings.chain_id
    assert url is not None, "the settings are whole"
    assert contract is not None, "the settings are whole"
    assert chain_id is not None, "the settings are whole"
    chain = Chain(url.get_secret_value(), contract, settings.chain_request_seconds)
    rounds = Rounds(database, chain, signer_from(settings), settings, clock, ids, tell)
    return Anchoring(database, chain_id, settings.chain_batch_seconds, rounds, clock)
