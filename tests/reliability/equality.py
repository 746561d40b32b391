"""Plans answer as graphql-core does: the documents of the engine's own tests, many more of them, from other seeds."""

import time

from tests.reliability.conservation import pytest_said
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Tally
from tests.serving import ROOT

TESTS = [ROOT / "tests" / "engine" / name for name in ("test_equality.py", "test_mutations.py")]
DOCUMENTS_FIRST = 100
DOCUMENTS_MAX = 20_000


async def answered_alike(tally: Tally, limit: Limit, _site: Site) -> None:
    """Rounds of so many documents, each as many as fit the time that is left."""
    documents = DOCUMENTS_FIRST
    while limit.more(tally.reached):
        began = time.monotonic()
        said = await pytest_said(TESTS, ESCROWGRID_DOCUMENTS=str(documents))
        if said:
            tally.violate(said)
            return
        tally.reached += documents
        a_second = documents / (time.monotonic() - began)
        documents = min(DOCUMENTS_MAX, int(a_second * (limit.until - time.monotonic()) * 0.9))
        if documents < DOCUMENTS_FIRST:
            return
