"""JPEGs decoded on a graphics card, and pictures resized there, a batch at a time.

nvJPEG decodes; what follows is matrix products: a picture at another size is one product for its
width and one for its height, and a batch of pictures, each in a corner of its own of one canvas, is
two products for all. The weights are Pillow's (``Resample.c``), and so is the rounding in between:
apart from what nvJPEG makes of a file otherwise, pixels are within a level or two of Pillow's.
All of it runs on CPUs, too, where torchvision decodes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from storage.errors import FacetError

from .decode import decode
from .errors import BadImage
from .load import LoadedImages
from .resize import Resize, placed

Device = str | torch.device

# Bytes of one canvas in float32; a batch of photographs of ImageNet's size takes a few.
CANVAS = 1 << 29
# What PIL calls EXIF's orientations, on (channels, height, width).
TURNS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda x: x,
    2: lambda x: x.flip(2),
    3: lambda x: x.flip(1, 2),
    4: lambda x: x.flip(1),
    5: lambda x: x.mT,
    6: lambda x: x.mT.flip(2),
    7: lambda x: x.mT.flip(1, 2),
    8: lambda x: x.mT.flip(1),
}


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -1/2."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _linear(x: torch.Tensor) -> torch.Tensor:
    return (1 - x.abs()).clamp(min=0)


# How far each reaches, and its weights.
KERNELS = {"bicubic": (2.0, _cubic), "bilinear": (1.0, _linear)}


def on_device(loaded: LoadedImages, device: Device) -> tuple[LoadedImages, torch.Tensor]:
    """What a run of images came to, and their pixels on a device, those left to it decoded.

    Parameters
    ----------
    loaded : LoadedImages
    device : str or torch.device

    Returns
    -------
    loaded : LoadedImages
        With nothing left to be decoded; its pixels are those that came decoded.
    pixels : (n, height, width, 3) uint8
    """
    pixels = torch.from_numpy(loaded.pixels).to(device)
    if loaded.encoded is None:
        return loaded, pixels
    encoded = loaded.encoded
    loaded = replace(
        loaded, ok=loaded.ok.copy(), error=[*loaded.error], width=[*loaded.width],
        height=[*loaded.height], encoded=None,
    )  # fmt: skip
    whole = pixels.new_zeros((len(loaded.ok), *pixels.shape[1:]))
    others = np.setdiff1d(np.arange(len(loaded.ok)), encoded.rows)
    whole[torch.from_numpy(others).to(device)] = pixels
    files = encoded.files()
    found = _decoded(files, device)
    kept = []
    for at, (row, turn) in enumerate(zip(encoded.rows, encoded.turns, strict=True)):
        if (picture := found[at]) is not None:
            found[at] = TURNS[turn](picture)
            kept.append(at)
            continue
        try:  # what the card does not take may still be a picture
            image = decode(files[at].tobytes())
        except BadImage as bad:
            loaded.ok[row], loaded.error[row] = False, str(bad)
            loaded.width[row] = loaded.height[row] = 0
            continue
        one = np.concatenate([r(image).reshape(-1, 3) for r in encoded.resizes])
        whole[row] = torch.from_numpy(one).to(device).view(whole.shape[1:])
    if kept:
        pictures = [picture for picture in found if picture is not None]
        parts = [resized(pictures, r).flatten(1, 2) for r in encoded.resizes]
        rows = torch.tensor([encoded.rows[at] for at in kept], device=device)
        whole[rows] = torch.cat(parts, 1).view(len(kept), *whole.shape[1:])
    return loaded, whole


def settled(loaded: LoadedImages, device: Device) -> LoadedImages:
    """The same in this machine's memory, for those who do more with pictures than run a model."""
    if loaded.encoded is None:
        return loaded
    loaded, pixels = on_device(loaded, device)
    return replace(loaded, pixels=pixels.cpu().numpy())


def resized(pictures: Sequence[torch.Tensor], resize: Resize) -> torch.Tensor:
    """Pictures of any sizes at a model's input size, as `Resize` brings one there.

    Parameters
    ----------
    pictures : sequence of (3, height, width) uint8
        All on one device.
    resize : Resize
        Bicubic or bilinear.

    Returns
    -------
    (n, height, width, 3) uint8
    """
    device = pictures[0].device
    result = torch.empty((len(pictures), resize.height, resize.width, 3), dtype=torch.uint8).to(
        device
    )
    for members in _alike([tuple(p.shape[1:]) for p in pictures]):
        result[torch.tensor(members, device=device)] = _together(
            [pictures[i] for i in members], resize
        )
    return result


def _together(pictures: Sequence[torch.Tensor], resize: Resize) -> torch.Tensor:
    """Some, on one canvas."""
    device, n = pictures[0].device, len(pictures)
    sizes = [tuple(p.shape[1:]) for p in pictures]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    canvas = torch.zeros((n, 3, height, width), dtype=torch.uint8, device=device)
    for corner, picture in zip(canvas, pictures, strict=True):
        corner[:, : picture.shape[1], : picture.shape[2]] = picture
    targets = [resize.size_of(w, h)[::-1] for h, w in sizes]
    down_nyh, across_nxw = (
        _weights(
            [size[axis] for size in sizes],
            [target[axis] for target in targets],
            (resize.height, resize.width)[axis],
            KERNELS[resize.fast or ""],
            device,
        )
        for axis in (0, 1)
    )
    narrow = _rounded(canvas.flatten(1, 2).float() @ across_nxw.mT)
    narrow = narrow.view(n, 3, height, resize.width)
    found_nchw = _rounded(down_nyh[:, None] @ narrow)
    # Where no weight falls there is no picture.
    inside = (down_nyh.sum(2) > 0)[:, None, :, None] & (across_nxw.sum(2) > 0)[:, None, None]
    fill = torch.tensor(resize.padding, device=device, dtype=torch.float32)
    found_nchw = torch.where(inside, found_nchw, fill[:, None, None])
    return found_nchw.to(torch.uint8).permute(0, 2, 3, 1)


def _weights(
    sizes: Sequence[int],
    targets: Sequence[int],
    wanted: int,
    kernel: tuple[float, Callable[[torch.Tensor], torch.Tensor]],
    device: Device,
) -> torch.Tensor:
    """How much of each pixel in a row goes into those wanted, picture by picture.

    Parameters
    ----------
    sizes, targets : sequence of int
        Pixels of each picture, and those that it is brought to.
    wanted : int
        Those of which are kept, or among which it is placed.
    kernel
        A row of ``KERNELS``.

    Returns
    -------
    (n, wanted, largest size) float32
        Rows of weights that sum to 1; zeros where there is no picture.
    """
    reach, function = kernel
    places = [placed(target, wanted) for target in targets]
    shift = torch.tensor([s.start - t.start for s, t in places])[:, None].to(device)
    size, target = (torch.tensor(n, device=device)[:, None].double() for n in (sizes, targets))
    scale = size / target
    wide = scale.clamp(min=1)
    at = shift + torch.arange(wanted, device=device)
    centre = (at + 0.5) * scale
    first = (centre - reach * wide + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + reach * wide + 0.5).trunc(), size)
    most = max(max(1.0, n / m) for n, m in zip(sizes, targets, strict=True))
    taps = 2 * math.ceil(reach * most) + 1
    source = first[..., None] + torch.arange(taps, device=device)
    weights = function((source - centre[..., None] + 0.5) / wide[..., None])
    there = (at >= 0) & (at < target)
    weights = weights * (source < last[..., None]) * there[..., None]
    weights = weights / weights.sum(2, keepdim=True).where(there[..., None], 1.0)
    # What reaches beyond the largest picture, with no weight, falls off at the end.
    longest = max(sizes)
    dense = torch.zeros((len(sizes), wanted, longest + taps), device=device)
    source = source.clamp(max=longest + taps - 1).long()
    return dense.scatter_add_(2, source, weights.float())[..., :longest]


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def _alike(sizes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Pictures of similar sizes, as many as one canvas holds."""
    members: list[int] = []
    height = width = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        height, width = max(height, sizes[i][0]), max(width, sizes[i][1])
        if members and 12 * height * width * (len(members) + 1) > CANVAS:
            yield members
            members, (height, width) = [], sizes[i]
        members.append(i)
    yield members


def _decoded(files: list[NDArray[np.uint8]], device: Device) -> list[torch.Tensor | None]:
    """All at once; one by one where one of them is refused, None for that."""
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        with warnings.catch_warnings():
            # Of a successor that may not be there, and of bytes that are not to be written to.
            warnings.simplefilter("ignore")
            jpegs = [torch.from_numpy(file) for file in files]
            return list(decode_jpeg(jpegs, ImageReadMode.RGB, device=device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "not compiled" in str(error):
            raise FacetError(
                "`decode` gpu: this torchvision is without nvJPEG; install one made for CUDA, or "
                "use `decode` fast or exact"
            ) from error
        if len(files) == 1:
            return [None]
        return [picture for file in files for picture in _decoded([file], device)]
