"""Run files: one YAML that names images, model, store and jobs; which stages, in which order."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from storage.errors import FacetError

# What stages have in common; images and model are for those that find them nowhere.
COMMON = ("images", "model", "pretrained", "store")


class RunFileError(FacetError):
    """A run file that cannot be understood."""


@dataclass(frozen=True)
class Stage:
    """One job with its settings.

    Attributes
    ----------
    name, job : str
    settings : dict
        By the job's own names, as in Python (``mlp_layers``).
    after : tuple of str
        Stages that have to be finished first.
    """

    name: str
    job: str
    settings: dict[str, Any]
    after: tuple[str, ...]


@dataclass(frozen=True)
class RunFile:
    """A run file, understood.

    Attributes
    ----------
    name : str
        The file's, without its suffix.
    store : str
    stages : tuple of Stage
        In an order in which they can run.
    """

    name: str
    store: str
    stages: tuple[Stage, ...]


def read_run(
    path: str,
    jobs: Mapping[str, Collection[str]],
    settings_of: Callable[[str], Collection[str]],
) -> RunFile:
    """Read and check a run file.

    Parameters
    ----------
    path : str
    jobs : mapping of str to collection of str
        What may be a stage, and whose work each reads: a stage waits for those.
    settings_of : callable
        The names of a job's settings.

    Raises
    ------
    RunFileError
        Naming what is wrong, and the nearest name that exists.
    """
    try:
        raw = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise RunFileError(f"the run file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())  # which it draws on several lines
        raise RunFileError(f"{path} is no YAML: {said}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("stages"), dict) or not raw["stages"]:
        raise RunFileError(f"{path}: give `store: …` and, under `stages:`, one entry a job")
    _check_names(f"{path}", raw, (*COMMON, "stages"))
    if not isinstance(raw.get("store"), str):
        raise RunFileError(f"{path}: `store:` must say where the store is or will be")
    common = {name: raw[name] for name in COMMON if name in raw}
    named = {name: _job(path, name, entry, jobs) for name, entry in raw["stages"].items()}
    stages = {}
    for name, job in named.items():
        where, entry = f"{path}, stage {name}", raw["stages"][name] or {}
        stages[name] = Stage(
            name,
            job,
            # The model belongs to whoever makes the store; others find it there.
            _settings(where, entry, common, settings_of(job), model=not jobs[job]),
            _after(where, name, entry, named, jobs[job]),
        )
    try:
        order = TopologicalSorter({s.name: s.after for s in stages.values()}).static_order()
        return RunFile(Path(path).stem, raw["store"], tuple(stages[name] for name in order))
    except CycleError as error:
        raise RunFileError(
            f"{path}: stages wait for each other: {' -> '.join(error.args[1])}"
        ) from None


def _job(path: str, name: str, entry: Any, jobs: Collection[str]) -> str:
    """Which job a stage runs: what it says, or the one that it is named after."""
    if entry is not None and not isinstance(entry, dict):
        raise RunFileError(f"{path}, stage {name}: write its settings as `name: value` lines")
    job = (entry or {}).get("job", name)
    if job not in jobs:
        raise RunFileError(
            f"{path}, stage {name}: there is no job {job!r}.{_near(job, jobs)} "
            f"Jobs: {', '.join(jobs)}"
        )
    return str(job)


def _settings(
    where: str,
    entry: Mapping[str, Any],
    common: Mapping[str, Any],
    known: Collection[str],
    *,
    model: bool,
) -> dict[str, Any]:
    """A stage's settings: its own, and those of the run that it has."""
    own = {str(k).replace("-", "_"): v for k, v in entry.items() if k not in ("job", "after")}
    _check_names(where, own, known)
    given = {k: v for k, v in common.items() if model or k == "store"}
    if isinstance(weights := common.get("pretrained"), str) and Path(weights).is_file():
        given["pretrained"] = weights
    settings = {**{k: v for k, v in given.items() if k in known}, **own}
    if faulty := [k for k, v in settings.items() if isinstance(v, dict) or v is None]:
        raise RunFileError(f"{where}: {faulty[0]} has no value that a setting can have")
    return settings


def _after(
    where: str,
    name: str,
    entry: Mapping[str, Any],
    jobs: Mapping[str, str],
    reads: Collection[str],
) -> tuple[str, ...]:
    """Stages that a stage waits for: those whose work its job reads, and those that it names."""
    after = entry.get("after", [])
    after = [after] if isinstance(after, str) else list(after)
    if unknown := [a for a in after if a not in jobs]:
        raise RunFileError(
            f"{where}: it waits for {unknown[0]!r}, which is no stage.{_near(unknown[0], jobs)}"
        )
    read = [other for other, job in jobs.items() if job in reads and other != name]
    return tuple(dict.fromkeys([*read, *after]))


def _check_names(where: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise RunFileError(
                f"{where}: there is no setting {name!r}.{_near(str(name), known)} "
                f"Settings: {', '.join(sorted(known))}"
            )


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
