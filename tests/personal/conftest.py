"""A server's parts with a master key file of this test's own."""

from pathlib import Path

import pytest

from app.context import Services
from app.settings import Settings
from tests import factories
from tests.factories import Place


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Keys are made in a folder of this test."""
    return settings.model_copy(update={"data_dir": tmp_path})


@pytest.fixture
async def place(services: Services) -> Place:
    """Somewhere to open positions."""
    return await factories.place(services)
