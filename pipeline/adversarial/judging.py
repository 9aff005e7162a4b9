"""Which pictures a model takes for the target, and what in them speaks for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.images.decode import decode
from pipeline.telling import SILENT, Teller
from storage import urls
from storage.errors import FacetError

from .tables import JUDGED

if TYPE_CHECKING:
    from pipeline.heatmaps.split import Split
    from pipeline.models import ModelSpec, VisionModel
    from pipeline.texts.classes import Classes

# Pictures of one pass of the model; and where their margins stand until all are there.
AT_ONCE, PARTS = 32, "margins"

Read = Callable[[str], bytes]


def margins(
    model: VisionModel,
    means_2e: NDArray[np.floating],
    files: Sequence[str],
    read: Read,
    place: str | None = None,
    teller: Teller = SILENT,
) -> NDArray[np.float64]:
    """How much nearer pictures are to the target than to the drawn class.

    Parameters
    ----------
    model : VisionModel
        Prepares the pictures, too.
    means_2e : (2, embed)
        Unit embeddings of the drawn class and of the target.
    files : sequence of str
    read : callable
        Takes a file, gives its bytes.
    place : str, optional
        Where margins are kept as they come, and found again by a run of the same files.
    teller : Teller

    Returns
    -------
    (N,) float64
        cos(picture, target) − cos(picture, drawn class).
    """
    drawn_e, target_e = np.asarray(means_2e, np.float64)
    found: list[float] = []
    with teller.bar("pictures judged", len(files), "pictures so far are kept") as move:
        for first in range(0, len(files), AT_ONCE):
            some = files[first : first + AT_ONCE]
            part = None if place is None else _part(place, some)
            kept = None if part is None else urls.read_each([part])[0]
            if kept is None:
                new = _of(model, target_e - drawn_e, some, read)
                if part is not None:
                    urls.put_bytes(part, json.dumps(new).encode())
            else:
                new = json.loads(kept)
            found += new
            move(len(found))
    return np.array(found)


def _part(place: str, files: Sequence[str]) -> str:
    """Where the margins of some files are kept."""
    digest = hashlib.sha256(json.dumps(list(files)).encode()).hexdigest()
    return urls.join(place, PARTS, f"{digest[:16]}.json")


def _of(
    model: VisionModel, direction_e: NDArray[np.float64], files: Sequence[str], read: Read
) -> list[float]:
    import torch

    pixels = np.stack([model.preprocess.to_uint8(decode(read(file))) for file in files])
    images = model.preprocess.to_tensor(torch.from_numpy(pixels).to(model.device))
    with torch.inference_mode():
        rows_be = model.module.encode_image(images.to(**model.wide)).double().cpu().numpy()
    return (rows_be @ direction_e / np.linalg.norm(rows_be, axis=1)).tolist()


def kept_files(text: str, files: Mapping[str, str], name: str) -> set[str]:
    """A person's list of the pictures that show the drawn class and not the target, one a line.

    Parameters
    ----------
    text : str
        The list; a file's name alone will do, where no two pictures have it.
    files : mapping of str to str
        All pictures, by where they are kept; each with the file that it was given as.
    name : str
        What the list is called, for messages.

    Raises
    ------
    FacetError
        If it has a file that is no picture of these, or may be several.
    """
    if not files:
        raise FacetError(f"`keep` {name}: there are no pictures that it could name")
    known: dict[str, set[str]] = {}
    for file, own in files.items():
        for called in (own, _alone(own), file, _alone(file)):
            known.setdefault(called, set()).add(file)
    lines = [line.strip() for line in text.splitlines()]
    asked = [line for line in lines if line and not line.startswith("#")]
    found = {line: known.get(line) or known.get(_alone(line)) or set() for line in asked}
    such = f"give names of files, one a line, such as {_alone(next(iter(files.values())))}"
    if unknown := [line for line in asked if not found[line]]:
        raise FacetError(
            f"`keep` {name}: {len(unknown)} of its {len(asked)} lines are no picture of these, "
            f"such as {unknown[0]!r}: {such}"
        )
    if several := [line for line in asked if len(found[line]) > 1]:
        raise FacetError(
            f"`keep` {name}: {several[0]!r} may be any of {len(found[several[0]])} pictures: name "
            "it with its folder, as it was given"
        )
    return set().union(*found.values())


def _alone(file: str) -> str:
    """A file's name, without its folder."""
    return file.rpartition("/")[2]


def parse_second(text: str) -> ModelSpec:
    """A second model, by its name and, where that is not certain, its weights: ``MODEL/WEIGHTS``.

    Raises
    ------
    FacetError
        If there is no such model, it has weights of several names and none is said, or it has no
        text tower to judge with.
    """
    from pipeline.models.errors import ModelError
    from pipeline.models.spec import ModelSpec, check_supported

    try:
        spec = ModelSpec.of(text)
    except ModelError as error:
        raise ModelError(f"`judge` {text}: {error}") from error
    if not check_supported(spec).has_texts:
        raise FacetError(f"`judge` {text}: it has no text tower, and classes are told by texts")
    return spec


def by_second(
    spec: ModelSpec, pair: Classes, read: Read, teller: Teller = SILENT
) -> Callable[[Sequence[str]], list[bool]]:
    """Whether a second model, too, would not take pictures for the target.

    Parameters
    ----------
    spec : ModelSpec
    pair : Classes
        The drawn class and the target, with their prompts.
    read : callable
        Takes a file, gives its bytes.

    Returns
    -------
    callable
        For `judge`.
    """
    import torch

    from pipeline.models import load_model
    from pipeline.texts.classes import class_means
    from pipeline.texts.embedding import encode_texts
    from pipeline.texts.encoding import tokenizer_of

    with teller.wait("loading the second model"):
        model = load_model(spec, "cuda" if torch.cuda.is_available() else "cpu")
    means_2e = class_means(encode_texts(model.module, tokenizer_of(model), pair.flat), pair)

    def there(files: Sequence[str]) -> list[bool]:
        return (margins(model, means_2e, files, read, teller=teller) <= 0).tolist()

    return there


def judge(
    pictures: pd.DataFrame,
    margin_of: Callable[[Sequence[str]], NDArray[np.floating]],
    there: Callable[[Sequence[str]], Sequence[bool]] | None = None,
) -> pd.DataFrame:
    """What became of every picture.

    Parameters
    ----------
    pictures : DataFrame
        ``tables.PICTURES["pictures"]``.
    margin_of : callable
        Takes files, gives `margins`.
    there : callable, optional
        Takes files, says of each whether the drawn class is there and the target is not; asked only
        of those of which the drawer does not know. Where nobody knows, it is taken to be.

    Returns
    -------
    DataFrame
        ``tables.JUDGED["judged"]``. A picture is of the target if it is nearer to it; a tie is not.
    """
    found = pictures[["source", "repeat", "description", "number", "file"]].copy()
    seen = (pictures["became"] == "drawn").to_numpy()
    files = pictures["file"].to_numpy(object)
    margin = np.full(len(pictures), np.nan)
    margin[seen] = margin_of(list(files[seen]))
    known = pictures["there"].to_numpy(object).copy()
    open_ = seen & pd.isna(known)
    if there is not None and open_.any():
        known[open_] = list(there(list(files[open_])))
    gone = seen & np.array([not value for value in np.where(pd.isna(known), True, known)])
    found["outcome"] = np.select(
        [~seen, gone, margin > 0], [pictures["became"], "not there", "fooled"], "not fooled"
    )
    found["margin"] = margin
    return found[JUDGED["judged"].names]


def speaks_map(
    model: VisionModel,
    pixels_hwc: NDArray[np.uint8],
    means_2e: NDArray[np.floating],
    layers: Sequence[int],
) -> Split:
    """Where in a picture speaks for the target rather than the drawn class.

    As in Figure 3.6 of Gandelsman 2025, and exact: map and terms that it leaves out sum to the
    picture's margin.

    Parameters
    ----------
    pixels_hwc : (height, width, 3) uint8
        As the model sees it.
    means_2e : (2, embed)
        Unit embeddings of the drawn class and of the target.
    layers : sequence of int
        Whose heads the map shows.

    Returns
    -------
    Split
        Of one text, target less drawn class: ``patches_mrc[0]`` is positive where the target is
        spoken for.
    """
    from pipeline.heatmaps.split import shares_of, split_of

    drawn_e, target_e = np.asarray(means_2e, np.float64)
    shares = shares_of(model, pixels_hwc, (target_e - drawn_e)[None], layers)
    return split_of(shares, layers)
