"""Errors as their users read them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs.console import told
from storage.errors import FacetError


@contextmanager
def refused(error: type[FacetError], match: str) -> Iterator[None]:
    """As ``pytest.raises``; the pattern is looked for in what the command line says."""
    with pytest.raises(error) as caught:
        yield
    assert re.search(match, told(caught.value)), told(caught.value)
