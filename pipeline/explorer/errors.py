"""What can go wrong in a view."""

from __future__ import annotations

from storage.errors import FacetError


class NotHere(FacetError):
    """There is no such store, image, head, neuron or text."""
