"""The store: layout, identity, ledger and results of one (data set, model) pair."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import Store, open_store

__all__ = ["Store", "open_store"]


def __getattr__(name: str) -> Any:
    # xarray and dask take seconds to import, and the many workers that only decode need neither.
    if name in __all__:
        from . import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
