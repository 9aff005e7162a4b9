"""A store whose model can be run, looked at by a library."""

from collections.abc import Iterator

import pytest

from jobs import extract, textspan
from pipeline.explorer.library import Library, Opened
from pipeline.stats.reductions import reduce_store
from storage.store import Store
from tests import tiny
from tests.pipeline.explorer.known import Known, known_store

TINY = tiny.tiny({"layers": 4, "mlp_ratio": 1.0}, {"width": 32}, quick_gelu=True)


@pytest.fixture(scope="session")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 pictures of the embedded world by a random model; heads of two layers in words, all
    reduced."""
    folder = tmp_path_factory.mktemp("modelled")
    store = extract.main(
        extract.ExtractConfig(
            images="microworld:n=40,seed=3,split=test",
            model=tiny.write_config(folder, TINY),
            pretrained="none",
            store=str(folder / "store"),
            components=("heads", "mlps", "tokens"),
            layers="last:2",
            store_dtype="float32",
            shard_size=32,
            seed=5,
            workers="here",
        )
    )
    textspan.main(
        textspan.TextSpanConfig(
            store.url, "microworld", layers="last:2", texts_per_head=8, workers="here"
        )
    )
    reduce_store(store)
    return store


@pytest.fixture(scope="session")
def library(modelled: Store) -> Iterator[Library]:
    """One that has time to load a model."""
    found = Library([modelled.url], [], lambda store, typed: {})
    found.model.patience = 120.0
    yield found
    found.close()


@pytest.fixture(scope="session")
def opened(library: Library) -> Opened:
    return library.stores["store"]


@pytest.fixture(scope="session")
def known(modelled: Store, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """See ``known_store``."""
    return known_store(modelled, tmp_path_factory.mktemp("known"))
