"""Results as tables on a terminal, from the data that pages and JSON are made of, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from pipeline.heads.answers import Compared, HeadAnswer, TextTowards
from pipeline.heads.names import head_name, neuron_name
from pipeline.heads.shares import Shares
from pipeline.heatmaps.answers import Segmented
from pipeline.heatmaps.found import HeatMaps
from pipeline.heatmaps.split import TERMS
from pipeline.labels.answers import Labels, ModelScores
from pipeline.labels.choices import FIRST
from pipeline.neurons.answers import STRONGEST, CodedNeuron, signed
from pipeline.repair.answers import Repaired
from pipeline.search.found import Found

if TYPE_CHECKING:  # neurons are drawn with their model, which takes seconds to import
    from pipeline.neurons.about import NeuronAnswer

# Images of a text that are named.
SHOWN = 3
# Characters of a line of a column that goes with long texts; no word of it is longer.
NARROW = 10
# Queries whose images are listed.
QUERIES = 8


def titled(title: str, *columns: str) -> Table:
    """An empty table."""
    return Table(*columns, title=title, title_justify="left", box=SIMPLE)


def keep_whole(table: Table, *columns: str) -> None:
    """On a narrow terminal other columns give way to these: a figure in part says nothing."""
    for column in table.columns:
        column.no_wrap = column.header in columns


def heads(found: Sequence[HeadAnswer], top: int) -> Table:
    """The first texts of every head, a row a head."""
    pictured = any(text.images for head in found for text in head.texts)
    columns = ["head", "texts", *(["most of the first, in images"] if pictured else [])]
    table = titled(f"TextSpan, the first {top} texts of every head", *columns)
    for head in found:
        texts = " · ".join(t.text for t in head.texts[:top])
        keys = " · ".join(image.key for text in head.texts[:1] for image in text.images[:SHOWN])
        table.add_row(head_name(head.layer, head.head), texts, *([keys] if pictured else []))
    return table


def labels(found: Labels) -> Table:
    """Every head's label with its evidence; what it is really about, where that is known."""
    truth = found.labels["role"].notna().any()
    columns = ["head", "label", "fit", "share", *(["really"] if truth else []), "texts"]
    table = titled(f"Labels of heads, by {found.judge}", *columns)
    keep_whole(table, "fit", "share")
    for column in table.columns:  # on a narrow terminal texts get what these leave
        if column.header in ("head", "really"):
            column.max_width = NARROW
    texts = found.texts.sort_values("rank").groupby(["layer", "head"])["text"].agg(" · ".join)
    for row in found.labels.to_dict("records"):
        at = row["layer"], row["head"]
        really = [f"{row['role']} {row['role_share']:.0%}" if row["role"] else "–"] if truth else []
        figures = (f"{row['fitting']} of {FIRST}", f"{row['share']:.0%}")
        label = row["label"] or "–"
        table.add_row(head_name(*at), label, *figures, *really, texts.get(at, "–"))
    return table


def label_scores(found: Labels) -> Table:
    """Scores over all heads."""
    table = titled(f"Scores of {len(found.labels)} heads", "score", "value")
    for name, value in found.scores.items():
        table.add_row(name, "–" if np.isnan(value) else f"{value:.3f}")
    return table


MODEL_COLUMNS = ("model", "model size", "patch size", "pre-training data", "heads")


def entanglements(found: Sequence[ModelScores]) -> Table:
    """Table 1 of the study of labels: heads that share theirs; beside it what needs no judge."""
    columns = [*MODEL_COLUMNS, "entanglement score (↓)", "overlap of texts (↓)"]
    return _of_models("Entanglement of heads", found, columns, ["entanglement", "overlap"])


def associations(found: Sequence[ModelScores]) -> Table:
    """Table 2 of the study: heads whose texts fit their label, and how many do."""
    counts = [f"{n} texts" for n in range(FIRST + 1)]
    columns = [*MODEL_COLUMNS, "association score (↑)", *counts]
    title = "Association of heads, and the share of heads with so many texts that fit"
    return _of_models(title, found, columns, ["association", *counts])


def _of_models(
    title: str, found: Sequence[ModelScores], columns: Sequence[str], scores: Sequence[str]
) -> Table:
    """A row a model, in the order in which they were named."""
    table = titled(title, *columns)
    keep_whole(table, *columns[len(MODEL_COLUMNS) :])
    for model in found:
        values = (model.scores[name] for name in scores)
        named = (model.model, model.size or "–", model.patch or "–", model.weights)
        figures = ("–" if np.isnan(value) else f"{value:.3f}" for value in values)
        table.add_row(*named, f"{model.heads:,}", *figures)
    return table


def sources(found: Shares) -> Table:
    """What heads gathered from registers, from the class token and from patches, a row a layer."""
    assert found.sources is not None  # whoever asks has a store that keeps them
    columns = ["layer", "class token", "registers", "patches", "together"]
    table = titled(
        f"Share of the embedding that heads wrote, by what they gathered it from (means over "
        f"{found.images:,} images)",
        *columns,
    )
    by_layer = found.sources.sum(2)
    for name, row in [*((str(i), row) for i, row in enumerate(by_layer)), ("all", by_layer.sum(0))]:
        table.add_row(name, *(f"{share:.1%}" for share in row), f"{row.sum():.1%}")
    return table


def accuracies(accuracy: pd.DataFrame) -> Table:
    """Accuracy over all images, a row an ablation; the worst group where groups are known."""
    of_groups = accuracy[accuracy["scope"] == "group"]
    groups = of_groups.groupby("ablation")["accuracy"].min().to_dict()
    columns = ["ablated", "accuracy", "95%", "change", *(["worst group"] if groups else [])]
    table = titled("Zero-shot accuracy", *columns)
    for row in accuracy[accuracy["scope"] == "all"].itertuples():
        cells = [
            str(row.ablation),
            f"{row.accuracy:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            f"{row.change:+.1%}",
        ]
        table.add_row(*cells, *([f"{groups[row.ablation]:.1%}"] if groups else []))
    return table


# Parts of a comparison that are printed.
APART = 12


def two_sets(found: Compared) -> Table:
    """The parts that tell two sets apart most clearly, and the texts along the difference."""
    shown = min(APART, len(found.parts))
    title = f"Two sets of images, the {shown} of {len(found.parts)} parts that tell them apart best"
    table = titled(title, "part", "apart", "chance", "Fisher", "share", "texts")
    keep_whole(table, "part", "apart", "chance", "Fisher", "share")
    for part in found.parts[:shown]:
        fisher = "–" if np.isnan(part.fisher) else f"{part.fisher:.2f}"
        table.add_row(
            part.name, f"{part.distance:.3f}", f"{part.chance:.3f}", fisher,
            f"{part.share:+.1%}", towards(part.texts),
        )  # fmt: skip
    return table


def towards(texts: Sequence[TextTowards]) -> str:
    """Texts towards each of two sets."""
    sides = []
    for side in "ab":
        named = [t.text for t in texts if t.towards == side]
        sides += [f"{side}: {' · '.join(named)}"] if named else []
    return "; ".join(sides)


def effects(neurons: pd.DataFrame) -> Table:
    """How strong neurons are, and how far one direction holds what they write."""
    title = f"Second-order effects, the strongest {STRONGEST} neurons of every layer"
    columns = [
        "MLP layer",
        "neuron",
        "mean",
        "large from",
        "largest",
        "explained, top images",
        "all",
    ]
    table = titled(title, *columns)
    for row in neurons.to_dict("records"):
        lengths = (f"{row[n]:.4f}" for n in ("norm_mean", "norm_large", "norm_max"))
        # Over all images it is not known where covariances were too large to gather.
        shares = (
            "–" if np.isnan(row[n]) else f"{row[n]:.0%}" for n in ("explained_top", "explained")
        )
        table.add_row(str(row["layer"]), str(row["neuron"]), *lengths, *shares)
    return table


def codes(neurons: Sequence[CodedNeuron], top: int) -> Table:
    """The first texts of neurons, with signs."""
    title = f"Sparse codes, the first {top} texts of the strongest neurons"
    table = titled(title, "MLP layer", "neuron", "texts")
    for found in neurons:
        table.add_row(str(found.layer), str(found.neuron), signed(found.texts[:top]))
    return table


def neuron(found: NeuronAnswer, top: int) -> Table:
    """The first texts of one neuron."""
    table = titled(neuron_name(found.layer, found.neuron), "coefficient", "text")
    for term in found.texts[:top]:
        table.add_row(f"{term.coefficient:+.4f}", term.text)
    return table


def heatmaps(found: HeatMaps) -> Table:
    """What each map shows of its logit, and what it leaves out."""
    less = "" if found.less is None else f", less the mean of {found.less}"
    columns = ["text", "map", "share", "leaves out", "logit", "residual"]
    edited = "" if found.edit is None else f", edited: {found.edit}"
    table = titled(f"Heat maps of {found.picture}{less}{edited}", *columns)
    keep_whole(table, *columns[1:3], *columns[4:])
    for row in found.table.to_dict("records"):
        text = f"{row['text']} − {row['against']}" if row["against"] else row["text"]
        if row["head"]:
            text = f"{row['head']} {row['extreme']} {row['coefficient']:+.4f}: {text}"
        share = "–" if np.isnan(row["share"]) else f"{row['share']:.0%}"
        left = ", ".join(f"{said} {row[t]:+.4f}" for t, said in TERMS.items() if row[t] != 0)
        figures = (f"{row['logit']:+.4f}", f"{row['residual']:.0e}")
        table.add_row(text, f"{row['shown']:+.4f}", share, left, *figures)
    return table


def segmentation(found: Segmented) -> Group:
    """How far the maps of methods agree with masks, and with the model; the best first."""
    columns = ["method", "mIoU", "95%", "pixels right", "mAP", "95%"]
    made = []
    for protocol, of in found.methods.groupby("protocol", sort=False):
        table = titled(f"Maps against masks, {protocol!s}", *columns)
        keep_whole(table, "method", "mIoU", "mAP")
        for row in best_first(of, "miou"):
            table.add_row(
                str(row.method), f"{row.miou:.1%}", f"{row.miou_low:.1%} to {row.miou_high:.1%}",
                f"{row.accuracy:.1%}",
                f"{row.map:.1%}", f"{row.map_low:.1%} to {row.map_high:.1%}",
            )  # fmt: skip
        made.append(table)
    if of["insertion"].notna().all():  # of maps alone: under each protocol the same
        made.append(erasure(of))
    return Group(*made)


def erasure(methods: pd.DataFrame) -> Table:
    """What the class keeps as patches are removed in a map's order; the best insertion first."""
    title = (
        "The class's probability as patches go: the map's most first (deletion), last (insertion)"
    )
    table = titled(title, "method", "deletion", "95%", "insertion", "95%")
    keep_whole(table, "method", "deletion", "insertion")
    for row in best_first(methods, "insertion"):
        table.add_row(
            str(row.method),
            f"{row.deletion:.3f}", f"{row.deletion_low:.3f} to {row.deletion_high:.3f}",
            f"{row.insertion:.3f}", f"{row.insertion_low:.3f} to {row.insertion_high:.3f}",
        )  # fmt: skip
    return table


def best_first(methods: pd.DataFrame, figure: str) -> Iterable[Any]:
    return methods.sort_values(figure, ascending=False, kind="stable").itertuples()


def repair(found: Repaired) -> Group:
    """Accuracy of held-out images by edit, on average and of the worst group, and by group."""
    columns = ["edit", "average (95%)", "worst group (95%)", "change (95%)", "which"]
    made = titled("Accuracy of held-out images, %", *columns)
    average = found.rows("all").set_index("edit").to_dict("index")
    for row in found.rows("worst").to_dict("records"):
        whole = average[row["edit"]]
        changed = row["edit"] != "none"
        made.add_row(
            found.said(row["edit"]),
            _percent(whole["accuracy"], whole["low"], whole["high"]),
            _percent(row["accuracy"], row["low"], row["high"]),
            _percent(row["change"], row["change_low"], row["change_high"], "+") if changed else "",
            row["name"],
        )
    by_group = titled("By group", "group", "images", *map(found.said, found.shown))
    for of in found.by_group().to_dict("records"):
        by_group.add_row(
            str(of["name"]), f"{of['n']:,}", *(f"{of[edit]:.1%}" for edit in found.shown)
        )
    shown = [made, by_group]
    if (crossed := found.by_class()) is not None:
        title = f"Repaired (as it is), by class and {found.column}, %"
        by_class = titled(title, "class", *map(str, crossed.columns))
        for name, cells in crossed.iterrows():
            by_class.add_row(str(name), *cells)
        shown.append(by_class)
    return Group(*shown)


def _percent(value: float, low: float, high: float, sign: str = "") -> str:
    """A share and its interval."""
    told = [format(100 * share, f"{sign}.1f") for share in (value, low, high)]
    return f"{told[0]} ({told[1]} to {told[2]})"


def searched(found: Found) -> Table:
    """The images that were found for the first queries, a row each."""
    more = len(found.queries) - QUERIES
    some = f", the first {QUERIES} of {len(found.queries):,} queries" if more > 0 else ""
    several = found.table["series"].nunique() > 1
    columns = ["query", *(["series"] if several else []), "rank", "image", "label", "score"]
    recall = "" if found.recall is None else f" (approximate: {found.approximate()})"
    table = titled(f"Nearest in {found.space}{some}{recall}", *columns)
    keep_whole(table, "rank", "score")
    shown = found.table[found.table["number"] < QUERIES].to_dict("records")
    before = None
    for row in shown:
        own = (row["number"], row["series"])
        query = f"{row['kind']} {row['query']}" if own != before else ""
        series = [row["series"] if own != before else ""] if several else []
        table.add_row(
            query, *series, str(row["rank"] + 1), row["key"], row["label"] or "–",
            f"{row['score']:.3f}",
        )  # fmt: skip
        before = own
    return table


def inversions(figures: pd.DataFrame) -> Table:
    """How like the targets the pictures are that each loss leads to."""
    columns = ["loss", "PSNR (dB)", "SSIM", "perceptual distance", "change (dB)", "95%"]
    table = titled("Pictures found again by a generator", *columns)
    for row in figures.itertuples():
        table.add_row(
            str(row.loss), f"{row.psnr:.2f}", f"{row.ssim:.3f}", f"{row.perceptual:.3f}",
            f"{row.psnr_change:+.2f}", f"{row.psnr_low:+.2f} to {row.psnr_high:+.2f}",
        )  # fmt: skip
    return table


def results(found: Sequence[Mapping[str, Any]]) -> Table:
    """Every result: what, when, over how many images, by which settings, where."""
    table = titled("Results", "job", "finished", "images", "settings", "address")
    for row in found:
        given = (f"{name}={_short(value)}" for name, value in row["settings"].items())
        when = "–" if row["finished"] is None else row["finished"][:16].replace("T", " ")
        images = "–" if row["images"] is None else f"{row['images']:,}"
        settings = " ".join(given) or "the job's own"
        table.add_row(row["job"], when, images, settings, row["address"])
    return table


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
