"""Fixtures that the tests of several jobs share."""

from pathlib import Path

import pytest

from storage.store import Store
from tests.jobs.neuron_store import neuron_store


@pytest.fixture(scope="session")
def neurons_kept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with second-order effects: see ``neuron_store``. Tests add results only."""
    folder: Path = tmp_path_factory.mktemp("neurons")
    return neuron_store(folder)
