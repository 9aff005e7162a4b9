"""Pictures of results: what heads are about, and what ablating them costs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, GREY = "#4a6fa5", "#9aa5b5"
TOP = 5


def textspan_figure(descriptions: pd.DataFrame, layer: int) -> Figure:
    """The first five texts of every described head of a layer, by explained variance."""
    rows = descriptions[(descriptions["layer"] == layer) & (descriptions["rank"] < TOP)]
    heads = sorted(rows["head"].unique())
    columns = min(4, len(heads))
    lines = math.ceil(len(heads) / columns)
    figure = Figure(figsize=(4.2 * columns, 1.9 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axis in axes.flat[len(heads) :]:
        axis.set_visible(False)
    for head, axis in zip(heads, axes.flat, strict=False):
        found = rows[rows["head"] == head].sort_values("rank")
        places = np.arange(len(found))
        axis.barh(places, found["explained_variance"], color=BLUE, alpha=0.45)
        for place, text in zip(places, found["text"], strict=True):
            short = text if len(text) <= 44 else text[:43] + "…"
            axis.text(
                0.01, place, short, va="center", size=8,
                transform=axis.get_yaxis_transform(), parse_math=False,
            )  # fmt: skip
        axis.set_yticks([])
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.set_title(f"layer {layer}, head {head}", size=9)
    return figure


def roles_figure(
    shares: np.ndarray, attributes: Sequence[str], heads: Sequence[tuple[int, int]]
) -> Figure:
    """Share of each head's variance that every attribute explains, (L, H, attributes)."""
    values = np.array([shares[at] for at in heads])
    figure = Figure(
        figsize=(1.0 * len(attributes) + 1.5, 0.3 * len(heads) + 1), layout="constrained"
    )
    axis = figure.subplots()
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 else "black"
        axis.text(column, row, f"{value:.0%}", ha="center", va="center", size=7, color=colour)
    axis.set_xticks(range(len(attributes)), attributes)
    axis.set_yticks(range(len(heads)), [f"{layer}.{head}" for layer, head in heads], size=7)
    axis.set_ylabel("layer.head")
    return figure


def ablation_figures(table: pd.DataFrame) -> dict[str, Figure]:
    """One picture a study that has more than a few numbers, by study."""
    whole = table[table["scope"] == "all"]
    baseline = whole[whole["study"] == "none"].iloc[0]
    figures = {}
    for study, rows in whole.groupby("study", sort=False):
        if study in ("layers", "textspan", "neurons", "effects"):
            figures[str(study)] = _lines(rows, baseline, str(study))
        elif study == "heads":
            figures[str(study)] = _head_map(rows)
        elif study in ("mlps", "class-token", "chosen"):
            figures[str(study)] = _bars(rows, baseline)
    return figures


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def _lines(rows: pd.DataFrame, baseline: pd.Series, study: str) -> Figure:
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for series, found in rows.groupby("series", sort=False):
        at = found["at"].astype(int).to_numpy()
        axis.errorbar(at, found["accuracy"], _errors(found), marker="o", capsize=2, label=series)
    axis.axhspan(baseline["low"], baseline["high"], color=GREY, alpha=0.3)
    axis.axhline(baseline["accuracy"], color=GREY, label="nothing ablated")
    axis.set_xticks(sorted({int(x) for x in rows["at"]}))
    names = {"textspan": "texts a head keeps", "layers": "layer l"}
    axis.set_xlabel(names.get(study, "MLP layer"))
    _accuracy_axis(axis)
    axis.legend(fontsize=8)
    return figure


def _head_map(rows: pd.DataFrame) -> Figure:
    places = rows["at"].str.split(".", expand=True).astype(int).to_numpy()
    change = np.zeros(places.max(0) + 1)
    change[places[:, 0], places[:, 1]] = rows["change"]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    top = float(np.abs(change).max()) or 1.0
    image = axis.imshow(change, cmap="RdBu", vmin=-top, vmax=top, aspect="auto")
    if change.size <= 64:
        for (layer, head), value in np.ndenumerate(change):
            axis.text(head, layer, f"{value:+.1%}", ha="center", va="center", size=8)
    axis.set(xlabel="head", ylabel="layer")
    axis.set_xticks(range(change.shape[1]))
    axis.set_yticks(range(change.shape[0]))
    figure.colorbar(image, ax=axis, format="{x:.1%}", label="change of accuracy")
    return figure


def _bars(rows: pd.DataFrame, baseline: pd.Series) -> Figure:
    shown = pd.concat([pd.DataFrame([baseline]), rows], ignore_index=True)
    names = ["nothing", *rows["ablation"]]
    figure = Figure(figsize=(7, 0.4 * len(names) + 1), layout="constrained")
    axis = figure.subplots()
    colours = [GREY, *([BLUE] * len(rows))]
    axis.barh(names, shown["accuracy"], xerr=_errors(shown), color=colours)
    axis.invert_yaxis()
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.set_xlabel("accuracy when ablated")
    return figure


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Distances to both ends of the intervals, (2, rows)."""
    accuracy = rows["accuracy"].to_numpy(float)
    ends = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    # An interval's end may lie past the figure itself by the bootstrap's grain.
    return np.maximum([accuracy - ends[0], ends[1] - accuracy], 0.0)


def _accuracy_axis(axis: Axes) -> None:
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.set_ylabel("accuracy")
    axis.set_ylim(bottom=0)
