"""What can go wrong through no fault of the code, as exceptions whose message says what to do."""


class FacetError(ValueError):
    """Something the user can mend; the message says what was wrong, where, and what to do."""


class StoreError(FacetError):
    """A store is missing, unfinished, damaged or not the one that was asked for."""


class StoreMismatch(StoreError):
    """A store exists and was made with another configuration."""


class StoreDtypeError(StoreError):
    """A value does not fit the store's dtype."""
