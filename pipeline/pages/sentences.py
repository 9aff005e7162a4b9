"""What a section says first: one sentence on what was found, and how sure it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.heads.choices import Head
from pipeline.heads.names import head_name, heads_name
from pipeline.heads.shares import Shares
from pipeline.heatmaps.tables import BASELINE
from pipeline.microworld.world import ATTRIBUTES
from pipeline.status import ExtractionStatus
from pipeline.telling import several
from storage.metadata import Metadata

if TYPE_CHECKING:
    from pipeline.neurons.truth import NeuronTruth

TOP = 5
NO_CHANGE = "no change that this many images could show"


def points(value: float) -> str:
    """A change of a share, in percentage points, with its sign: ``−9.3``."""
    return f"{100 * value:+.1f}".replace("-", "−")


def tiny(value: float | None) -> str:
    """``2.1e−4``, which no line is broken in."""
    if value is None:
        return "–"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}".replace("-", "−")


def interval(row: pd.Series) -> str:
    """The 95% interval of a change, in points."""
    return f"{points(row['change_low'])} to {points(row['change_high'])}"


def is_none(row: pd.Series) -> bool:
    """Whether the interval of a change includes none."""
    return bool(row["change_low"] <= 0 <= row["change_high"])


def change(row: pd.Series) -> str:
    """``−9.3 points (95%: −11.0 to −7.6)``; or that there is none to be told."""
    if is_none(row):
        return f"{NO_CHANGE} ({points(row['change'])} points, 95%: {interval(row)})"
    return f"{points(row['change'])} points (95%: {interval(row)})"


def accuracy(row: pd.Series) -> str:
    """``73.5% (95%: 71.6% to 75.4%)``."""
    return f"{row['accuracy']:.1%} (95%: {row['low']:.1%} to {row['high']:.1%})"


# -- the store -----------------------------------------------------------------------------


def images(found: ExtractionStatus) -> str:
    """How many images are in."""
    bad = f", {found.images_bad:,} of them bad" if found.images_bad else ""
    return f"{found.images_ok:,} of {several(found.images, 'image')} were taken apart{bad}."


def exactness(found: ExtractionStatus, meta: Metadata) -> str:
    """How far the parts are from the model's own output, at the worst."""
    return (
        "The parts of every image sum to the model's own output: on the worst of "
        f"{several(found.images_ok, 'image')} they miss it by {tiny(found.residual)} of its length "
        f"as computed ({meta.precision}), and by {tiny(found.rounding)} as stored "
        f"({meta.store_dtype})."
    )


def written(found: Shares, of: int) -> str:
    """Who wrote the embedding."""
    block = int(found.mlps.argmax())
    mlp = "the start" if block == 0 else f"the MLP of layer {block - 1}"
    if not found.heads.size:
        return (
            f"Start and blocks wrote {found.mlps.sum():.1%} of the embedding, constants "
            f"{found.constants:.1%} (means over {found.images:,} of {several(of, 'image')}). "
            f"Most wrote {mlp} ({found.mlps.max():.1%})."
        )
    layer, head = divmod(int(found.heads.argmax()), found.heads.shape[1])
    return (
        f"Attention heads wrote {found.heads.sum():.1%} of the embedding, start and MLPs "
        f"{found.mlps.sum():.1%}, constants {found.constants:.1%} (means over {found.images:,} of "
        f"{several(of, 'image')}). Of the heads {head_name(layer, head)} wrote most "
        f"({found.heads.max():.1%}), and of the other parts {mlp} ({found.mlps.max():.1%})."
        + _from_registers(found)
    )


def _from_registers(found: Shares) -> str:
    """Where heads gathered it from, if that is known."""
    if found.sources is None:
        return ""
    token, registers, patches = found.sources.sum((0, 2))
    return (
        f" Of what heads wrote, {registers:.1%} of the embedding they gathered from registers, "
        f"{token:.1%} from the class token and {patches:.1%} from patches."
    )


# -- heads ---------------------------------------------------------------------------------


def explained(descriptions: pd.DataFrame) -> pd.Series:
    """Share of each head's variance that its first texts explain, by (layer, head)."""
    first = descriptions[descriptions["rank"] < TOP]
    return first.groupby(["layer", "head"])["cumulative"].max()


def heads_of(shares: pd.Series) -> list[Head]:
    """Heads that figures by (layer, head) are of."""
    return [(int(layer), int(head)) for layer, head in shares.index]


def by_chance(head_dim: int) -> float:
    """Share of a head's variance that as many random directions explain, on average."""
    return min(1.0, TOP / head_dim)


def described(descriptions: pd.DataFrame, images: int, head_dim: int) -> str:
    """How far texts describe heads."""
    shares = explained(descriptions)
    at = heads_of(shares)
    least, most = at[int(shares.to_numpy().argmin())], at[int(shares.to_numpy().argmax())]
    return (
        f"The first {TOP} texts of a head explain {shares.median():.0%} of what it writes "
        f"(median of {several(len(shares), 'head')}, over {several(images, 'image')}; "
        f"{TOP} random directions: {by_chance(head_dim):.0%}), most of "
        f"{head_name(*most)} ({shares.max():.0%}) and least of {head_name(*least)} "
        f"({shares.min():.0%})."
    )


def roles(table: pd.DataFrame, images: int) -> str:
    """Whether texts name what heads are really about."""
    clear = table[table["share"] >= 0.5]
    agree = int((table["texts_about"] > TOP / 2).sum())
    best = table.iloc[table["share"].to_numpy().argmax()]
    # An attribute of c values explains about (c - 1) / n of anything.
    chance = (max(map(len, ATTRIBUTES.values())) - 1) / images
    return (
        f"Of {several(len(table), 'head')}, {len(clear)} follow one attribute for half of their "
        f"variance or more, {head_name(int(best['layer']), int(best['head']))} most "
        f"({best['attribute']}, {best['share']:.0%}; by chance, over {several(images, 'image')}, "
        f"about {chance:.1%}); of {agree} most of the first {TOP} texts name the attribute that "
        "explains most."
    )


# -- ablations -----------------------------------------------------------------------------


def baseline(row: pd.Series, classes: int) -> str:
    """Accuracy with nothing ablated, and chance."""
    return (
        f"Of {several(int(row['n']), 'image')} {accuracy(row)} are classified rightly with nothing "
        f"ablated; guessing among {classes} classes gives {1 / classes:.1%}."
    )


def ablated(study: str, rows: pd.DataFrame) -> str:
    """What a study of ablations found; rows over all images."""
    return ABLATED[study](rows)


def _single(rows: pd.DataFrame) -> str:
    return "; ".join(f"without {r['ablation']}: {change(r)}" for _, r in rows.iterrows())


def _heads(rows: pd.DataFrame) -> str:
    none = rows.apply(is_none, axis=1)
    worst = rows.iloc[rows["change"].to_numpy().argmin()]
    better = int((~none & (rows["change"] > 0)).sum())
    return (
        f"of {several(len(rows), 'head')}, {int((~none).sum()) - better} cost accuracy when they "
        f"are replaced, {better} raise it, and {int(none.sum())} show {NO_CHANGE} (by chance "
        f"alone about {0.05 * len(rows):.0f} would seem to change it); "
        f"{head_name(*head_at(worst['at']))} costs most: {change(worst)}"
    )


def _layers(rows: pd.DataFrame) -> str:
    accumulated = rows[rows["series"] == "layers 0 to l"]
    alone = rows[rows["series"] != "layers 0 to l"]
    worst = alone.iloc[alone["change"].to_numpy().argmin()]
    said = f"of single layers the attention of layer {worst['at']} costs most: {change(worst)}"
    free = 0
    for _, row in accumulated.iterrows():
        if not is_none(row) and row["change"] < 0:
            break
        free += 1
    first = "the first layer alone shows a loss" if free == 0 else (
        f"the first {several(free, 'layer')} together cost nothing that this many images could show"
    )  # fmt: skip
    return f"{said}; from below, {first}, and all layers {change(accumulated.iloc[-1])}"


def _textspan(rows: pd.DataFrame) -> str:
    most = rows["at"].astype(int).max()
    last = rows[rows["at"].astype(int) == most]
    kept = [f"{r['series']} {accuracy(r)}" for _, r in last.iterrows()]
    return (
        f"with all but the span of {several(int(most), 'text')} a head replaced, accuracy is: "
        + "; ".join(kept)
    )


def worst_group(table: pd.DataFrame, chosen: pd.Series) -> str:
    """The group that fares worst, and how it fares in an ablation; where there are groups."""
    groups = table[table["scope"] == "group"]
    before = groups[groups["ablation"] == "none"].reset_index(drop=True)
    if before.empty:
        return ""
    worst = before.iloc[before["accuracy"].to_numpy().argmin()]
    after = groups[groups["ablation"] == chosen["ablation"]]
    same = after[after["name"] == worst["name"]].iloc[0]
    how = f"with {chosen['ablation']}" if chosen["study"] == "edits" else "without these heads"
    return (
        f"of {several(len(before), 'group')} {worst['name']} fares worst, {accuracy(worst)} of "
        f"{several(int(worst['n']), 'image')}; {how} it is {accuracy(same)}, and "
        f"the worst of all is then {after['accuracy'].min():.1%}"
    )


def _chosen(rows: pd.DataFrame) -> str:
    chosen = rows[rows["series"] == "chosen"].iloc[0]
    random = rows[rows["series"] != "chosen"]["change"]
    return (
        f"without {chosen_heads(chosen)}: {change(chosen)}; without as many random heads, "
        f"{len(random)} draws: {points(random.min())} to {points(random.max())} points"
    )


def _edits(rows: pd.DataFrame) -> str:
    return "; ".join(f"with {r['ablation']}: {change(r)}" for _, r in rows.iterrows())


def _neurons(rows: pd.DataFrame) -> str:
    worst = rows.iloc[rows["change"].to_numpy().argmin()]
    number = several(len(rows), "ablation")
    return f"of {number} the one that costs most is {worst['ablation']}: {change(worst)}"


ABLATED = {
    "mlps": _single,
    "class-token": _single,
    "heads": _heads,
    "layers": _layers,
    "textspan": _textspan,
    "chosen": _chosen,
    "edits": _edits,
    "neurons": _neurons,
    "effects": _neurons,
}


def head_at(at: str) -> Head:
    """A head as tables of ablations have it, ``3.0``."""
    layer, _, head = at.partition(".")
    return int(layer), int(head)


def replaced(row: pd.Series) -> str:
    """What an ablation replaced; sets of random heads are numbered from 1."""
    if row["study"] == "none":
        return "nothing"
    if row["study"] == "chosen" and row["series"] == "chosen":
        return chosen_heads(row)
    if row["study"] == "chosen":
        return f"as many random heads, draw {int(row['at']) + 1}"
    return str(row["ablation"])


def chosen_heads(row: pd.Series) -> str:
    """Heads of the study of chosen ones; older tables have ``heads 3.0 3.2``."""
    short = re.findall(r"\d+\.\d+", row["ablation"])
    return heads_name([head_at(word) for word in short]) if short else str(row["ablation"])


# -- neurons -------------------------------------------------------------------------------


def effects(neurons: pd.DataFrame, images: int) -> str:
    """How many neurons of a layer have effects, and how far one direction holds them."""
    alive = neurons[neurons["norm_max"] > 0]
    low, middle, high = alive["explained_top"].quantile([0.25, 0.5, 0.75])
    return (
        f"{len(alive):,} of {several(len(neurons), 'neuron')} have an effect through later heads; "
        f"one direction holds {middle:.0%} of it on the images where it is longest (median; "
        f"quartiles {low:.0%} and {high:.0%}; over {several(images, 'image')})."
    )


def explained_effects(table: pd.DataFrame) -> str:
    """How far one direction holds each kind of effect."""
    rows = table.to_dict("records")
    held = "; ".join(
        f"MLP layer {r['layer']}, {r['effect']}: {r['explained']:.0%} (mean of "
        f"{r['neurons']:,} neurons over {r['images']:,} images)"
        for r in rows
    )
    return f"One direction holds, of a neuron's effects: {held}."


def fits(table: pd.DataFrame) -> str:
    """What codes leave of directions."""
    most = table[table["most"] == table["most"].max()]
    low, middle, high = most["residual"].quantile([0.25, 0.5, 0.75])
    return (
        f"A code of up to {several(int(most['most'].max()), 'text')} leaves {middle:.0%} of the "
        f"length of a neuron's direction (median of {several(len(most), 'neuron')}; quartiles "
        f"{low:.0%} and {high:.0%}; no text at all leaves 100%)."
    )


def true_texts(found: NeuronTruth) -> str:
    """How well neurons fire on what their texts say, beside random texts."""
    auc = found.table["auc"]
    low, high = found.draws.min(), found.draws.max()
    return (
        f"Neurons tell the images that their text is true of from the others with an AUC of "
        f"{auc.mean():.2f} (mean of {several(len(auc), 'neuron')}, from {auc.min():.2f} to "
        f"{auc.max():.2f}, over {several(found.images, 'image')}); with random texts of the same "
        f"pool it is {found.draws.mean():.2f} ({len(found.draws)} draws, {low:.2f} to {high:.2f}), "
        "and 0.50 is chance."
    )


# -- heat maps -----------------------------------------------------------------------------

MASKS = {
    "aligned": "with masks on the pixels of their pictures",
    "published": "with masks stretched to the input, as published",
}


def figure(row: pd.Series, name: str) -> str:
    """A share with its interval: ``61.2% (95%: 59.8% to 62.5%)``."""
    return f"{row[name]:.1%} (95%: {row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})"


def found_best(methods: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Which method agrees best with masks under one protocol, and by how much.

    Of the others the next, the one that was asked for first, and the baseline are named.
    """
    ranked = methods.sort_values("miou", ascending=False, kind="stable")
    by_name = {str(row["method"]): row for _, row in ranked.iterrows()}
    best, *others = by_name
    said = (
        f"{MASKS[str(ranked['protocol'].iloc[0])]}, over "
        f"{several(int(ranked['images'].iloc[0]), 'image')}, {best} has the best mIoU: "
        f"{figure(by_name[best], 'miou')}"
    )
    less = miou_less_than(best, differences)
    named = dict.fromkeys([*others[:1], str(methods["method"].iloc[0]), BASELINE])
    told = [_less(name, less) for name in named if name in others]
    if told:
        said += f"; next is {'; '.join(told)}"
    if "random" in others:
        said += f"; maps drawn at random get {by_name['random']['miou']:.1%}"
    by_map = max(by_name.values(), key=lambda row: row["map"])
    which = "it is first, too" if by_map["method"] == best else f"{by_map['method']} is first"
    return f"{said}. By mAP {which}: {figure(by_map, 'map')}"


def miou_less_than(best: str, differences: pd.DataFrame) -> dict[str, pd.Series]:
    """How the mIoU of every method differs from that of the best, by method."""
    rows = differences[(differences["figure"] == "miou") & (differences["against"] == best)]
    return {str(row["method"]): row for _, row in rows.iterrows()}


def _less(method: str, less: Mapping[str, pd.Series]) -> str:
    row = less[method]
    if is_none(row):
        return (
            f"{method}, with no difference that this many images could show "
            f"({points(row['change'])} points, 95%: {interval(row)})"
        )
    return f"{method}, {points(row['change'])} points (95%: {interval(row)})"


def joined(parts: Sequence[str]) -> str:
    """Sentences of parts: the first letter large, a full stop behind."""
    return " ".join(part[0].upper() + part[1:].rstrip(".") + "." for part in parts if part)
