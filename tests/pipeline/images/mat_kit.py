"""A MATLAB 7.3 file as ImageNet-Segmentation's: references to arrays with their axes turned."""

from pathlib import Path

import h5py
import numpy as np

Masks = list[np.ndarray]


def write_mat(path: Path, pictures: list[np.ndarray], masks: list[Masks], names: list[str]) -> Path:
    """Pictures (height, width, 3) with their masks (height, width), as MATLAB's own ``save``."""
    with h5py.File(path, "w", userblock_size=512) as file:
        held = file.create_group("#refs#")

        def keep(array: np.ndarray, matlab_class: str) -> h5py.Reference:
            data = held.create_dataset(f"{len(held):x}", data=array.T, compression="gzip")
            data.attrs["MATLAB_class"] = np.bytes_(matlab_class)
            return data.ref

        def cells(arrays: Masks) -> h5py.Reference:
            if not arrays:
                empty = held.create_dataset(f"{len(held):x}", data=np.zeros(2, np.uint64))
                empty.attrs["MATLAB_empty"] = np.uint8(1)
                return empty.ref
            name = f"{len(held):x}"
            refs = held.create_dataset(name, (1, len(arrays)), dtype=h5py.ref_dtype)
            for i, array in enumerate(arrays):
                refs[0, i] = keep(array, "uint8")
            refs.attrs["MATLAB_class"] = np.bytes_("cell")
            return refs.ref

        value = file.create_group("value")
        value.attrs["MATLAB_class"] = np.bytes_("struct")
        for field in ("img", "gt", "id"):
            value.create_dataset(field, (len(names), 1), dtype=h5py.ref_dtype)
        for i, name in enumerate(names):
            value["img"][i, 0] = keep(pictures[i], "uint8")
            value["gt"][i, 0] = cells(masks[i])
            text = np.frombuffer(name.encode("utf-16-le"), "<u2")[None]
            value["id"][i, 0] = keep(text, "char")
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path
