"""Checks of settings that every job makes alike, and the flags that settings are given by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from storage.errors import FacetError


def flag(name: str) -> str:
    """A setting as the command line has it: ``batch_size`` is ``--batch-size``."""
    return f"--{name.replace('_', '-')}"


def refuse_bounds(config: Any, *fractions: str, **least: int) -> None:
    """Refuse numbers that mean nothing.

    Parameters
    ----------
    config : dataclass instance
    *fractions : str
        Settings from 0 to 1.
    **least : int
        The least that a setting may be; one that is None is left to the job.
    """
    for name, lowest in least.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise FacetError(f"{flag(name)} {value}: must be at least {lowest}")
    for name in fractions:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise FacetError(f"{flag(name)} {value}: is a fraction between 0 and 1")


def refuse_unused(config: Any, names: Collection[str], belong_to: str) -> None:
    """Refuse settings that were given and would change nothing.

    Parameters
    ----------
    config : dataclass instance
    names : collection of str
        Settings that are not used, by what else is asked for.
    belong_to : str
        What they belong to, such as ``--study textspan``.
    """
    given = [
        flag(f.name)
        for f in fields(config)
        if f.name in names and getattr(config, f.name) != f.default
    ]
    if given:
        verb = "belongs" if len(given) == 1 else "belong"
        raise FacetError(
            f"{', '.join(given)} {verb} to {belong_to}, and would change nothing here: leave it "
            "out, or ask for that"
        )
