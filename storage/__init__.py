"""The store: layout, identity, ledger and results of one (data set, model) pair."""

from .store import Store, open_store

__all__ = ["Store", "open_store"]
