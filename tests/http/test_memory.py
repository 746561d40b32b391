"""What was there when a server began is not looked through for garbage; rings of what came later still go."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.http import server


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    server.settle_memory()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("settled")
def test_what_was_there_at_the_start_is_not_looked_through() -> None:
    assert gc.get_freeze_count() > 10_000


@pytest.mark.usefixtures("settled")
def test_a_ring_of_objects_that_nobody_holds_goes_by_itself() -> None:
    gone = weakref.ref(Ring())
    kept: list[list[int]] = [[] for _ in range(2 * server.COLLECTING[0])]
    assert gone() is None, f"after {len(kept)} new objects"
