"""The picture that is looked at: an image of a store, or one that a visitor brought.

What the model wrote of it comes from the store's rows, or from one pass of the model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.heads.parts import StoredParts, part_arrays
from storage import ledger, urls
from storage.errors import FacetError
from storage.layout import CONTRIBUTIONS

if TYPE_CHECKING:
    from pipeline.explorer.model import Loaded

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture that is looked at.

    Attributes
    ----------
    address : str
        Where its page is; what is made of it stands below.
    name : str
        Its number and key in the store, or the name of its file.
    index : int or None
        Its number, where the store holds it.
    facts : dict of str to str
        What the image table says of it.
    error : str or None
        Why the store has nothing of it.
    """

    address: str
    name: str
    index: int | None
    facts: dict[str, str]
    error: str | None = None
    data: bytes | None = field(default=None, repr=False, metadata={"picture": True})

    @property
    def key(self) -> tuple[str, object]:
        """What it is, for what is kept of it."""
        if self.data is None:
            return "image", self.index
        return "picture", hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, eq=False)
class Decomposed:
    """The parts of a picture's embedding, one row each.

    Attributes
    ----------
    parts : StoredParts
    residual : float
        ‖sum of contributions − embedding‖ / ‖embedding‖, before rounding.
    rounding : float
        The same of the parts as they are here: rounded to the store's dtype, where it keeps them.
    tokens_te : (token, embed) or None
        Contributions of tokens, summed over all heads of ``token_layers``.
    token_layers : tuple of int
    stored : bool
        Whether they are from the store, or from a pass of the model.
    """

    parts: StoredParts
    residual: float
    rounding: float
    tokens_te: Array | None
    token_layers: tuple[int, ...]
    stored: bool


def image_subject(here: Opened, index: int) -> Subject:
    """An image of a store.

    Raises
    ------
    NotHere
        If the store has no such image.
    """
    images = here.meta.images
    if not 0 <= index < images:
        raise NotHere(f"image {index}: this store has images 0-{images - 1}")
    row = here.store.images(index, index + 1).to_pylist()[0]
    facts = {name: str(value) for name, value in row.items() if value not in (None, "")}
    shard, at = divmod(index, here.meta.shard_size)
    error: str | None = "its shard is not extracted yet"
    if urls.exists(ledger.part_url(here.store.data, shard)):
        was = ledger.read_part(here.store.data, shard).slice(at, 1).to_pylist()[0]
        facts |= {"pixels": f"{was['width']} × {was['height']}"} if was["ok"] else {}
        error = None if was["ok"] else was["error"]
    name = f"image {index}, {row['key']}"
    return Subject(f"/s/{here.name}/image/{index}", name, index, facts, error)


def picture_subject(library: Library, here: Opened, picture: str) -> Subject:
    """A picture that a visitor brought.

    Raises
    ------
    NotHere
        If it is not held any more.
    """
    held = library.uploads.get(picture)
    facts = {"pixels": f"{held.width} × {held.height}", "file": f"{len(held.data):,} bytes"}
    address = f"/s/{here.name}/picture/{held.id}"
    return Subject(address, held.name, None, facts, data=held.data)


def refuse_nothing(subject: Subject) -> None:
    """Refuse an image that the store has nothing of."""
    if subject.error is not None:
        raise FacetError(f"the store has nothing of {subject.name}: {subject.error}")


def decomposed(library: Library, here: Opened, subject: Subject) -> Decomposed:
    """The parts of a picture's embedding: of an image as the store keeps them, else of a pass.

    Raises
    ------
    FacetError
        If the store has nothing of the image, or lacks heads or MLPs.
    NotYet
        If the model is needed, and is being loaded.
    """
    refuse_nothing(subject)
    if subject.index is None:
        return passed(library, here, subject)
    index = subject.index
    return here.cached(("parts", index), lambda: stored_parts(here, index))


def stored_parts(here: Opened, index: int) -> Decomposed:
    """What a store keeps of an image that is ok.

    Raises
    ------
    FacetError
        If it keeps no heads or no MLPs.
    """
    meta = here.meta
    if lacking := [name for name in ("heads", "mlps") if name not in meta.components]:
        raise FacetError(
            f"this store keeps no {' and no '.join(lacking)}: what wrote an embedding is told from "
            "heads and MLPs"
        )
    group: Any = urls.open_group(urls.join(here.store.data, CONTRIBUTIONS), mode="r")

    def row(name: str) -> Array:
        return np.asarray(group[name][index : index + 1])

    tokens = row("tokens")[0].astype(np.float64) if "tokens" in meta.components else None
    parts = StoredParts.of({name: row(name) for name in part_arrays(meta)})
    residual, rounding = float(row("residual")[0]), float(row("rounding")[0])
    return Decomposed(parts, residual, rounding, tokens, meta.token_layers, stored=True)


def passed(library: Library, here: Opened, subject: Subject) -> Decomposed:
    """What one pass of the model gives of a picture: all its parts, and what each token wrote.

    Raises
    ------
    NotYet
        If the model is being loaded.
    FacetError
        If the picture is not to be had as it was.
    """
    picture = subject.index if subject.data is None else subject.data
    return here.cached(("passed", subject.key), lambda: library.model.ask(here, decompose, picture))


# -- in the model's process ----------------------------------------------------------------


def pixels_of(loaded: Loaded, picture: int | bytes) -> Any:
    """A picture as the model takes it, (1, 3, height, width): a number in the store, or a file."""
    import torch

    from pipeline.heatmaps.seen import see_file, see_image

    if isinstance(picture, bytes):
        seen = see_file(loaded.store.meta, "picture", picture)
    else:
        seen = see_image(loaded.store, picture)
        if seen.unreadable is not None:
            raise FacetError(
                f"{seen.name} is not to be had as it was ({seen.unreadable}): the model cannot see "
                "it again"
            )
    pixels = torch.from_numpy(np.array(seen.pixels))[None].to(loaded.model.device)
    return loaded.model.preprocess.to_tensor(pixels)


def decompose(loaded: Loaded, picture: int | bytes) -> Decomposed:
    """One pass over a picture."""
    from pipeline.extraction.decompose import Decomposer

    model = loaded.model
    layers = tuple(range(model.layers))
    wrote = Decomposer(model, ("heads", "mlps", "tokens"), layers)(pixels_of(loaded, picture))
    assert wrote.tokens_bte is not None  # asked for
    tokens, residual = wrote.tokens_bte[0].double().cpu().numpy(), float(wrote.residual_b[0])
    return Decomposed(StoredParts.passed(wrote), residual, residual, tokens, layers, stored=False)
