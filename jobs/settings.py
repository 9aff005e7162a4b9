"""Checks of settings that every job makes alike; the flags and commands that give them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pipeline.cluster import machines
from storage.errors import FacetError

if TYPE_CHECKING:
    from storage.metadata import Metadata

# In a command: what the reader knows better.
ELIDED = "…"


def pool_of(source: str) -> str:
    """The pool of texts to begin with, of a store of these images."""
    return "microworld" if source.startswith("microworld") else "general"


def flag(name: str) -> str:
    """A setting as the command line has it: ``batch_size`` is ``--batch-size``, and ``class_``,
    which Python lets no field be called, ``--class``."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def command(job: str, *words: object, **settings: object) -> str:
    """A command that a message tells the user to type: ``facet JOB --name value``, for a shell.

    Parameters
    ----------
    job : str
    *words
        What stands without a name.
    **settings
        By the job's own names. None is left out, several values are a tuple.
    """
    line = [job, *map(str, words), *arguments(settings)]
    return " ".join(["facet", *(word if word == ELIDED else shlex.quote(word) for word in line)])


def arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as a command line takes them, word by word."""
    words: list[str] = []
    for name, value in settings.items():
        option = flag(name)
        match value:
            case None | () | []:
                continue
            case bool():
                words.append(option if value else flag(f"no_{name}"))
            case tuple() | list():
                words += [option, *map(str, value)]
            case _ if str(value).startswith("-"):  # it would be taken for the next name
                words.append(f"{option}={value}")
            case _:
                words += [option, str(value)]
    return words


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
        if isinstance(value, int | float) and value < lowest:  # not of "auto"
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


def choose_place(config: Any) -> None:
    """Have all work done where ``--workers`` says; several copies of a model are work for Ray."""
    several = getattr(config, "num_actors", "auto") not in ("auto", 1)
    machines.work("ray" if several and config.workers == "auto" else config.workers)
    if config.workers == "here":
        refuse_unused(config, ["num_actors"], "--workers ray")


def describing(url: str, meta: Metadata, **settings: object) -> str:
    """The command that puts a store's heads into words: in its own model's, or in a CLIP's.

    Where it keeps no heads, that which shows what is there.
    """
    from pipeline.texts.towers import CLIP_STORE, without_text_tower

    if "heads" not in meta.components:
        return command("report", store=url)
    pool, layers = pool_of(meta.source), None if meta.layers >= 4 else "all"
    if without_text_tower(meta) is None:
        return command("textspan", store=url, pool=pool, layers=layers, **settings)
    return command("align", from_=CLIP_STORE, to=url, pool=pool, layers=layers)
