"""Pictures of heat maps that were held to masks: curves, bars, classes, and a sheet of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from pipeline.heatmaps.choices import METHODS, method_of
from pipeline.heatmaps.scores import FOREGROUND, IGNORED, relevance
from pipeline.heatmaps.sheet import Sheet
from pipeline.heatmaps.tables import FALLING

from .figures import below, note
from .fragments import Bar, bars, matrix, render
from .pictures import heat, picture, small
from .plots import SERIES, plot

STYLES = ("-", "--", ":")
# Classes that are shown one by one.
CLASSES = 20
ERASED = {"deletion": "less is better", "insertion": "more is better"}


def curve_figure(curve: pd.DataFrame, title: str) -> Markup:
    """Precision against recall of every method, along the threshold; of one protocol."""
    methods = list(curve["method"].unique())

    def draw(axis: Axes) -> None:
        for i, method in enumerate(methods):
            rows = curve[curve["method"] == method]
            colour, style = SERIES[i % len(SERIES)][0], STYLES[i // len(SERIES) % len(STYLES)]
            axis.plot(rows["recall"], rows["precision"], style, color=colour, label=method, lw=1.4)
        axis.set(xlabel="recall", ylabel="precision", title=title, xlim=(0, 1))
        for of in (axis.xaxis, axis.yaxis):
            of.set_major_formatter(PercentFormatter(1.0))
        below(axis, 2)

    lines = -(-len(methods) // 2)
    drawn = plot(draw, f"Precision against recall, {title}", 2.5 + 0.17 * lines)
    said = "Each point: the pixels whose relevance is at least a threshold, of all pictures."
    return drawn + note(said)


def erased_figure(methods: pd.DataFrame) -> Markup:
    """What is left of a class's probability as patches go, and come; of one protocol."""
    cards = []
    for name, better in ERASED.items():
        rows = methods.sort_values(name, ascending=name in FALLING, kind="stable")
        shown = [
            Bar(
                str(r["method"]),
                f"{r[name]:.3f} ({r[f'{name}_low']:.3f} to {r[f'{name}_high']:.3f})",
                float(r[name]),
            )
            for r in rows.to_dict("records")
        ]
        cards.append((f"{name}: {better}", bars(shown)))
    said = (
        "Area under the probability of the class as patches are removed, or put in, those first "
        "that the map scores highest; 95% intervals over pictures."
    )
    return render("cards.html", cards=cards, said=said)


def classes_figure(classes: pd.DataFrame, methods: Sequence[str]) -> Markup:
    """mIoU of every method for the classes that most pictures have; of one protocol."""
    images = classes.groupby("class")["images"].max().sort_values(ascending=False, kind="stable")
    shown = sorted(images.index[:CLASSES])
    table = classes.pivot(index="class", columns="method", values="miou").loc[shown, list(methods)]
    named = [f"{name} ({images[name]:,})" for name in shown]
    return matrix(
        table.to_numpy(), named, methods, "{:.0%}".format,
        corner="class (images)", unit="mIoU", top=1.0,
    )  # fmt: skip


def sheet_figure(sheet: Sheet) -> Markup:
    """Every picture with its mask, and under every method's map."""
    cases = []
    for n, case in enumerate(sheet.cases):
        pixels = sheet.pictures_nyxc[n]
        name = f"{sheet.classes[n]}, image {case.image}"
        tiles = [
            (picture(small(pixels), name), "picture"),
            (picture(heat(pixels, _mask(sheet.masks_nyx[n])), f"mask of {name}"), "mask"),
        ]
        for method, map_yx in zip(sheet.methods, sheet.maps_nmyx[n], strict=True):
            shown = heat(pixels, _relevance(map_yx, pixels, method), Image.Resampling.BILINEAR)
            tiles.append((picture(shown, f"{method} on {name}"), method))
        cases.append((f"{case.case}, IoU {case.iou:.0%}: {name}", tiles))
    ignored = bool((sheet.masks_nyx == IGNORED).any())
    return render("sheet.html", cases=cases, ignored=ignored)


def _mask(mask_yx: NDArray[np.uint8]) -> NDArray[np.floating]:
    return np.where(mask_yx == IGNORED, -1.0, 1.0 * (mask_yx == FOREGROUND))


def _relevance(
    map_yx: NDArray[np.float32], pixels: NDArray[np.uint8], method: str
) -> NDArray[np.floating]:
    """As it is held to masks."""
    clipped = METHODS[method_of(method)].clipped
    size = (pixels.shape[0], pixels.shape[1])
    return relevance(torch.from_numpy(map_yx)[None], size, clipped)[0].numpy()
