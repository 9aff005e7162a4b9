"""Pictures of results, as parts of a page: what heads are about, and what ablating them costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from pipeline.heads.names import head_name
from pipeline.heads.shares import Shares

from .fragments import Bar, bars, matrix, render
from .plots import BLUE, GREY, INK, ORANGE, SERIES, plot
from .sentences import replaced

TOP = 5
# Numbers below an axis for which there is room.
TICKS = 12
XLABELS = {"textspan": "texts a head keeps", "layers": "layer l"}


def textspan_figure(descriptions: pd.DataFrame, layer: int) -> Markup:
    """The first five texts of every described head of a layer, by explained variance."""
    first = descriptions[descriptions["rank"] < TOP]
    rows, top = first[first["layer"] == layer], float(first["explained_variance"].max())
    cards = [
        (
            head_name(layer, head),
            bars(
                [
                    Bar(r.text, f"{r.explained_variance:.1%}", r.explained_variance)
                    for r in rows[rows["head"] == head].sort_values("rank").itertuples()
                ],
                top,
            ),
        )
        for head in sorted(rows["head"].unique().tolist())
    ]
    said = (
        "Bars: share of the head's variance that each text adds; the longest of all heads is "
        f"{top:.1%}."
    )
    return render("cards.html", cards=cards, said=said)


def roles_figure(
    shares: NDArray[np.float64], attributes: Sequence[str], heads: Sequence[tuple[int, int]]
) -> Markup:
    """Share of each head's variance that every attribute explains, (L, H, attributes)."""
    return matrix(
        np.array([shares[at] for at in heads]), [head_name(*at) for at in heads], attributes,
        "{:.0%}".format, corner="head", unit="of the head's variance",
    )  # fmt: skip


def share_figures(found: Shares) -> list[Markup]:
    """Share of the embedding that every head wrote; that the start and every MLP wrote."""
    layers, heads = found.heads.shape
    names = ["start", *(f"MLP of layer {layer}" for layer in range(layers))]
    others = bars([Bar(n, f"{v:+.1%}", float(v)) for n, v in zip(names, found.mlps, strict=True)])
    if not heads:
        return [others]
    of_heads = matrix(
        found.heads, [f"layer {i}" for i in range(layers)], [f"head {i}" for i in range(heads)],
        "{:+.1%}".format, corner="", unit="of the embedding",
    )  # fmt: skip
    return [of_heads, others]


def residual_figure(residual: NDArray[np.floating], rounding: NDArray[np.floating]) -> Markup:
    """How far images' parts are from the model's own output, as computed and as stored."""

    def draw(axis: Axes) -> None:
        drawn = ((residual, "as computed", BLUE), (rounding, "as stored", ORANGE))
        for values, name, colour in drawn:
            kept = values[np.isfinite(values) & (values > 0)]
            if len(kept):
                bins = np.geomspace(kept.min() / 1.1, kept.max() * 1.1, 20)
                axis.hist(kept, bins=bins.tolist(), label=name, color=colour)
        axis.set(xlabel="relative distance to the model's own output", ylabel="images")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.0e}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        if axis.get_legend_handles_labels()[0]:
            below(axis, 2)

    return plot(draw, "Histogram of the distances between parts and the model's own output")


def ablation_figures(table: pd.DataFrame) -> dict[str, Markup]:
    """One picture a study that has more than a few numbers, by study.

    Parameters
    ----------
    table : DataFrame
        As ``heads.tables.ABLATIONS`` has it. Chance is one in as many as there are classes.
    """
    whole = table[table["scope"] == "all"]
    baseline = whole[whole["study"] == "none"].iloc[0]
    classes = table.loc[table["scope"] == "class", "name"].nunique()
    chance = 1 / classes if classes else None
    figures = {}
    for study, rows in whole.groupby("study", sort=False):
        if study in ("layers", "textspan", "neurons", "effects"):
            figures[str(study)] = _lines(rows, baseline, chance, str(study))
        elif study == "heads":
            figures[str(study)] = _head_map(rows)
        elif study in ("mlps", "class-token", "chosen", "edits"):
            figures[str(study)] = _points(rows, baseline, chance)
    return figures


def _lines(rows: pd.DataFrame, baseline: pd.Series, chance: float | None, study: str) -> Markup:
    """Accuracy along a series; points are hollow where the change may be none."""
    near = if_near(chance, pd.concat([rows, baseline.to_frame().T]))

    def draw(axis: Axes) -> None:
        series = list(rows.groupby("series", sort=False))
        for (name, found), (colour, marker) in zip(series, _colours(len(series)), strict=True):
            at = found["at"].astype(int).to_numpy()
            axis.errorbar(at, found["accuracy"], errors(found), color=colour, label=name)
            for unsure, filled in ((True, "none"), (False, colour)):
                of = may_be_none(found) == unsure
                axis.plot(at[of], found["accuracy"][of], marker, color=colour, mfc=filled)
        axis.axhspan(baseline["low"], baseline["high"], color=GREY, alpha=0.25, lw=0)
        axis.axhline(baseline["accuracy"], color=GREY, label="nothing ablated")
        if near:
            axis.axhline(near, color=INK, ls=":", lw=1, label=chance_name(near))
        places = sorted({int(x) for x in rows["at"]})
        if len(places) > TICKS:
            axis.xaxis.set_major_locator(MaxNLocator(TICKS, integer=True))
        else:
            axis.set_xticks(places)
        axis.set_xlabel(XLABELS.get(study, "MLP layer"))
        accuracy_axis(axis.yaxis)
        below(axis, 2 if max(len(str(name)) for name, _ in series) < 24 else 1)

    about = f"Accuracy by {XLABELS.get(study, 'MLP layer')}"
    drawn = plot(draw, about, 2.6 + 0.15 * rows["series"].nunique())
    return drawn + _read(rows, chance, near)


def _points(rows: pd.DataFrame, baseline: pd.Series, chance: float | None) -> Markup:
    """Accuracies below each other, with their intervals; names stand above them."""
    shown = pd.concat([pd.DataFrame([baseline]), rows], ignore_index=True)
    names = ["nothing ablated", *(replaced(row) for _, row in rows.iterrows())]
    unsure = may_be_none(shown)
    near = if_near(chance, shown)

    def draw(axis: Axes) -> None:
        places = np.arange(len(shown))
        for place, dim in zip(places, unsure, strict=True):
            row = shown[place : place + 1]
            colour = GREY if place == 0 else BLUE
            axis.errorbar(
                row["accuracy"], [place], xerr=errors(row), fmt="o", color=colour,
                mfc="none" if dim and place else colour,
            )  # fmt: skip
        for place, name in zip(places, names, strict=True):
            axis.text(0, place - 0.25, _short(name), va="bottom",
                      transform=axis.get_yaxis_transform())  # fmt: skip
        axis.axvline(baseline["accuracy"], color=GREY, lw=1, label="nothing ablated")
        if near:
            axis.axvline(near, color=INK, ls=":", lw=1, label=chance_name(near))
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_ylim(len(shown) - 0.5, -0.9)
        accuracy_axis(axis.xaxis)
        below(axis, 2)

    drawn = plot(draw, "Accuracy of each ablation", 1.0 + 0.4 * len(shown))
    return drawn + _read(rows, chance, near)


def _head_map(rows: pd.DataFrame) -> Markup:
    """Change of accuracy without each head; hatched where it may be none."""
    places = rows["at"].str.split(".", expand=True).astype(int).to_numpy()
    layers, heads = places.max(0) + 1
    change, unsure = np.full((layers, heads), np.nan), np.zeros((layers, heads), bool)
    change[places[:, 0], places[:, 1]] = rows["change"]
    unsure[places[:, 0], places[:, 1]] = may_be_none(rows)
    return matrix(
        change, [f"layer {i}" for i in range(layers)], [f"head {i}" for i in range(heads)],
        "{:+.1%}".format, corner="", unit="change of accuracy", unsure=unsure,
    )  # fmt: skip


def may_be_none(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the intervals of changes include 0."""
    return ((rows["change_low"] <= 0) & (rows["change_high"] >= 0)).to_numpy()


def errors(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Distances to both ends of the intervals, (2, rows)."""
    accuracy = rows["accuracy"].to_numpy(float)
    ends = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    # An interval's end may lie past the figure itself by the bootstrap's grain.
    return np.maximum([accuracy - ends[0], ends[1] - accuracy], 0.0)


def note(text: str) -> Markup:
    """How a picture is read, below it."""
    return Markup('<p class="read">{}</p>').format(text)


def below(axis: Axes, columns: int) -> None:
    """The legend, below the axes: it hides nothing there."""
    axis.figure.legend(loc="outside lower left", ncols=columns)


def accuracy_axis(axis: Axis) -> None:
    """Per cent; the axis spans what is drawn."""
    axis.set_major_formatter(PercentFormatter(1.0))
    axis.set_label_text("accuracy")


def chance_name(chance: float) -> str:
    return f"chance, {chance:.1%}"


def if_near(chance: float | None, rows: pd.DataFrame) -> float | None:
    """Chance, unless to show it would flatten what is drawn."""
    low, high = float(rows["low"].min()), float(rows["high"].max())
    return chance if chance is not None and low - (high - low) <= chance <= high else None


def _read(rows: pd.DataFrame, chance: float | None, near: float | None) -> Markup:
    low, high = rows["low"].min(), rows["high"].max()
    low = low if near is None else min(low, near)
    said = "Bars are 95% intervals."
    if low > high / 5:
        said += " The axis does not begin at 0."
    if may_be_none(rows).any():
        said += " Hollow points: the 95% interval of the change includes 0."
    if chance is not None and near is None:
        said += f" {chance_name(chance).capitalize()}, lies outside of the range shown."
    return note(said)


def _colours(count: int) -> list[tuple[str, str]]:
    return [SERIES[i % len(SERIES)] for i in range(count)]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
