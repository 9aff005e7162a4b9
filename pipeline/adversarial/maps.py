"""Maps of what speaks for the target in pictures that are shown (Gandelsman 2025, Figure 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.images.decode import decode
from pipeline.telling import SILENT, Teller

from .judging import speaks_map

if TYPE_CHECKING:
    from pipeline.models import VisionModel


def maps_of(
    model: VisionModel,
    files: Sequence[str],
    read: Callable[[str], bytes],
    means_2e: NDArray[np.floating],
    layers: Sequence[int],
    teller: Teller = SILENT,
) -> xr.Dataset | None:
    """Maps of some pictures, as a result keeps them; None of none.

    Parameters
    ----------
    files : sequence of str
    read : callable
        Takes a file, gives its bytes.
    means_2e : (2, E)
        Unit embeddings of the drawn class and of the target.
    layers : sequence of int
        Whose heads the maps show.

    Returns
    -------
    Dataset
        By ``file``: ``map``, what each patch wrote of the picture's margin; ``rest``, what the map
        leaves out of it; ``pixels``, the picture as the model saw it.
    """
    if not files:
        return None
    found, rest, seen = [], [], []
    with teller.bar("maps of pictures", len(files)) as move:
        for file in files:
            pixels_hwc = model.preprocess.to_uint8(decode(read(file)))
            split = speaks_map(model, pixels_hwc, means_2e, layers)
            found.append(split.patches_mrc[0])
            rest.append(float(split.logit_m[0] - split.shown_m[0]))
            seen.append(pixels_hwc)
            move(len(seen))
    return xr.Dataset(
        {
            "map": (("picture", "row", "column"), np.stack(found).astype(np.float64)),
            "rest": ("picture", np.array(rest)),
            "pixels": (("picture", "y", "x", "channel"), np.stack(seen)),
        },
        {"file": ("picture", np.array(files, object))},
    )
