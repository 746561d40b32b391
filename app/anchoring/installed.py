"""Puts anchoring together as the settings say; whoever imports this loads web3."""

from functools import partial

from app.anchoring.chain import Chain
from app.anchoring.keys import signer_from
from app.anchoring.rounds import Rounds
from app.anchoring.worker import Anchoring
from app.context import Services
from app.ledger.bell import Topic


def anchoring(services: Services) -> Anchoring:
    """The follower; raises `Invalid` when its key cannot be used."""
    settings = services.settings
    assert settings.chain_url is not None, "the settings are whole"
    assert settings.chain_contract is not None, "the settings are whole"
    assert settings.chain_id is not None, "the settings are whole"
    chain = Chain(
        settings.chain_url.get_secret_value(), settings.chain_contract, settings.chain_request_seconds
    )
    signer = signer_from(settings)
    tell = partial(services.tell, Topic.ANCHORS)
    rounds = Rounds(services.database, chain, signer, settings, services.clock, services.ids, tell)
    return Anchoring(services.database, settings.chain_id, rounds, services.clock)
