"""Checks of settings that every job makes alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from storage.errors import FacetError


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
        f"--{f.name.replace('_', '-')}"
        for f in fields(config)
        if f.name in names and getattr(config, f.name) != f.default
    ]
    if given:
        verb = "belongs" if len(given) == 1 else "belong"
        raise FacetError(
            f"{', '.join(given)} {verb} to {belong_to}, and would change nothing here: leave it "
            "out, or ask for that"
        )
