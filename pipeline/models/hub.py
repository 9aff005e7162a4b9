"""Files of Hugging Face's hub: from its cache on this machine, or fetched by its own client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .checkpoint import INDEX, HubFile
from .errors import ModelError


def cached(file: HubFile) -> Path | None:
    """The first of a file's names that this machine's cache holds."""
    from huggingface_hub import try_to_load_from_cache

    for name in file.names:
        found = try_to_load_from_cache(file.repo, name, revision=file.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def cache_folder() -> Path:
    """Where the hub's client keeps what it fetched: ``HF_HUB_CACHE``, or ``HF_HOME``/hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def fetch(file: HubFile, what: str) -> Path:
    """A file of the hub as a path; those that an index names lie beside it then.

    What the cache holds is taken as it is, also where there is a network: a model stays what it
    was until its cache is cleared.

    Raises
    ------
    ModelError
        Saying which file was looked for, in which folder, and what to do.
    """
    path = cached(file) or _download(file, what)
    if path.name.endswith(INDEX):
        for name in sorted(
            set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        ):
            part = HubFile(file.repo, (name,), file.revision)
            cached(part) or _download(part, what)
    return path


def _download(file: HubFile, what: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    for name in file.names:
        try:
            return Path(hf_hub_download(file.repo, name, revision=file.revision))
        except LocalEntryNotFoundError as error:  # no network, or told to use none
            raise ModelError(_absent(file, what, "and the hub cannot be reached")) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(_absent(file, what, f"and the hub refuses it ({reason})")) from error
    raise ModelError(_absent(file, what, "nor is it on the hub"))


def _absent(file: HubFile, what: str, why: str) -> str:
    return (
        f"{what} is not on this machine: {_either(file.names)} of {file.repo} is not in "
        f"{cache_folder()}, {why}. Where there is a network, run `{command(file)}` and copy that "
        "folder here (HF_HOME says where it is), or give a file by `pretrained`"
    )


def command(file: HubFile) -> str:
    """What fetches a file of the hub, on a machine with network."""
    revision = f" --revision {file.revision}" if file.revision else ""
    return f"hf download {file.repo} {file.names[-1]}{revision}"


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
