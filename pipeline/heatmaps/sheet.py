"""A few pictures with their masks and every method's map, kept in a result to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from storage import urls
from storage.results import Result

from .summary import Case

# The result's group of arrays.
SHEET = "sheet"


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures to be looked at.

    Attributes
    ----------
    protocol : str
        By which the masks were brought to the pixels.
    methods : sequence of str
        Rows of the table of methods.
    cases : sequence of Case
        The pictures.
    keys, classes : sequence of str
        Their keys; the names of the classes whose maps were made.
    pictures_nyxc : (picture, y, x, 3) uint8
        As the model saw them.
    masks_nyx : (picture, y, x) uint8
    maps_nmyx : (picture, method, row, column) float32
        Over the patch grid, as the methods make them.
    """

    protocol: str
    methods: Sequence[str]
    cases: Sequence[Case]
    keys: Sequence[str]
    classes: Sequence[str]
    pictures_nyxc: NDArray[np.uint8]
    masks_nyx: NDArray[np.uint8]
    maps_nmyx: NDArray[np.float32]

    def arrays(self) -> xr.Dataset:
        """As a result keeps it, under ``SHEET``."""
        return xr.Dataset(
            {
                "picture": (("image", "y", "x", "rgb"), self.pictures_nyxc),
                "mask": (("image", "y", "x"), self.masks_nyx),
                "map": (("image", "method", "row", "column"), self.maps_nmyx),
            },
            attrs={
                "protocol": self.protocol,
                "methods": list(self.methods),
                "cases": [asdict(case) for case in self.cases],
                "keys": list(self.keys),
                "classes": list(self.classes),
            },
        )

    @classmethod
    def of(cls, result: Result) -> Sheet | None:
        """That of a result; None where none was kept."""
        if not urls.exists(urls.join(result.url, f"{SHEET}.zarr", "zarr.json")):
            return None
        kept = result.arrays(SHEET)
        known = kept.attrs
        return cls(
            known["protocol"],
            known["methods"],
            [Case(**case) for case in known["cases"]],
            known["keys"],
            known["classes"],
            *(kept[name].values for name in ("picture", "mask", "map")),
        )
