"""A store of which all is known that a picture's page tells, its model in this process."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from jobs import omp, reduce, second_order
from jobs.pages import as_typed
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.model import Loaded
from pipeline.explorer.subject import Subject
from pipeline.images.again import load_again
from pipeline.texts.encoding import store_model
from storage import open_store
from storage.store import Store

# The MLP layer whose neurons are in words.
LAYER = 1


@dataclass(frozen=True, eq=False)
class Known:
    """A library over one store, which is ``here``; its model answers in this process."""

    library: Library
    here: Opened
    loaded: Loaded
    store: Store


def known_store(modelled: Store, folder: Path) -> Known:
    """A copy with moments of all parts and neurons in words."""
    url = str(folder / "store")
    shutil.copytree(modelled.url, url)
    reduce.main(reduce.ReduceConfig(url, workers="here"))
    second_order.main(
        second_order.SecondOrderConfig(url, mlp_layers=str(LAYER), top_k=10, workers="here")
    )
    omp.main(omp.OmpConfig(url, mlp_layers=str(LAYER), pool="microworld", terms=3, workers="here"))
    library = Library([url], [], lambda store, typed: {}, as_typed)
    loaded = Loaded(open_store(url), store_model(open_store(url)))
    # Asked in this process: what is tested is what is asked.
    library.model = SimpleNamespace(ask=lambda opened, f, *asked: f(loaded, *asked))  # type: ignore
    return Known(library, library.stores["store"], loaded, loaded.store)


def brought(known: Known, index: int) -> Subject:
    """An image of the store, as a visitor would bring it."""
    file = io.BytesIO()
    load_again(known.store, index).save(file, format="PNG")
    return Subject("/s/store/picture/x", "mine.png", None, {}, data=file.getvalue())
