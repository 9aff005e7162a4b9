"""Sections of the page: what heads write, in words, and what ablating them costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from pipeline.heads.describe import Head
from pipeline.heads.names import head_name
from pipeline.heads.roles import KnownRoles
from pipeline.telling import several

from . import notes, sentences
from .figures import ablation_figures, roles_figure, textspan_figure
from .fragments import render
from .html import Made, Section, anchor, link, section
from .sentences import TOP, head_at

TITLES = {
    "mlps": "All MLPs replaced by their means",
    "layers": "Attention layers replaced by their means",
    "heads": "Single heads replaced by their means",
    "class-token": "The class token's own contribution replaced by its mean",
    "textspan": "All but the span of a head's first texts replaced by means",
    "chosen": "Chosen heads replaced by their means",
    "edits": "Edits: parts replaced by their means as far as their gains say",
    "neurons": "Neurons' second-order effects replaced by their means",
    "effects": "Effects of neurons replaced by their means: first-order, second-order, indirect",
}
ROLES = "Heads against the truth"
# Heads that a table names, of a model that has more.
LISTED = 20


def layer_title(layer: int) -> str:
    return f"What the heads of layer {layer} write, in words"


def texts_of(at: Head) -> str:
    """Where the page has a head's texts."""
    return "texts-{}-{}".format(*at)


def without(at: Head) -> str:
    """Where the page has what the loss of a head costs."""
    return "without-{}-{}".format(*at)


def linked(at: Head, place: str, there: Collection[Head]) -> str:
    """A head's name, as a link if it is there."""
    return link(head_name(*at), f"#{place}") if at in there else head_name(*at)


def linked_heads(heads: Sequence[Head], described: Collection[Head]) -> list[str]:
    """Links to the texts of heads."""
    return [linked(at, texts_of(at), described) for at in heads if at in described]


def heads_of(descriptions: pd.DataFrame) -> list[Head]:
    """Heads that a table is about."""
    rows = descriptions[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    return [(int(a), int(b)) for a, b in rows.itertuples(index=False, name=None)]


def textspan_section(
    descriptions: pd.DataFrame,
    images: int,
    head_dim: int,
    losses: Mapping[Head, str],
    warned: Sequence[str],
    made: Made,
) -> Section:
    """Heads in words: the first texts of every head, by layer.

    Parameters
    ----------
    descriptions : DataFrame
        TextSpan's table.
    images, head_dim : int
        Over which it was found; dimensions of a head.
    losses : dict of (layer, head) to str
        What accuracy loses without heads that the page has more on.
    """
    shares = sentences.explained(descriptions)
    first = descriptions[descriptions["rank"] == 0].set_index(["layer", "head"])["text"]
    rows = [
        (
            anchor(head_name(*at), texts_of(at)),
            first[at],
            f"{shares[at]:.0%}",
            *([link(losses[at], f"#{without(at)}") if at in losses else "–"] if losses else []),
        )
        for at in heads_of(descriptions)
    ]
    layers = sorted(descriptions["layer"].unique(), reverse=True)
    return section(
        "What heads write, in words",
        f"TextSpan's first {TOP} texts of every head, by layer, the last first, and what share of "
        "what the head writes they explain.",
        name="texts",
        found=sentences.described(descriptions, images, head_dim),
        notes=[*warned, *notes.little(shares, head_dim)],
        plot=[textspan_figure(descriptions, int(layer)) for layer in layers],
        header=(
            "head",
            "first text",
            f"explained by {TOP}, %",
            *(["without it, points"] if losses else []),
        ),
        rows=rows,
        made=made,
    )


def pictured_section(
    pictured: Mapping[Head, tuple[str, Sequence[tuple[str, str]]]], heads: int, made: Made
) -> Section:
    """The images that heads write most of their first texts for.

    Parameters
    ----------
    pictured : mapping of (layer, head) to (str, sequence of (Markup, str))
        The text, and pictures with what stands below.
    heads : int
        That are described.
    """
    cases = [(f"{head_name(*at)}: “{text}”", tiles) for at, (text, tiles) in pictured.items()]
    some = "" if len(cases) == heads else f", {len(cases)} of them spread evenly"
    return section(
        "Images of the heads' first texts",
        "Below each image, how much the head wrote of the text there, on the scale of the cosine "
        "of image and text; the head's mean is not removed.",
        name="pictured",
        found=f"The images for which heads write most of the text that describes them first, of "
        f"{several(heads, 'head')}{some}.",
        plot=[render("tiles.html", cases=cases)],
        made=made,
    )


def roles_section(
    known: KnownRoles, images: int, described: Collection[Head], made: Made
) -> Section:
    """Which attribute each head follows, where the truth is known."""
    table = known.table.sort_values("share", ascending=False)
    heads = [(int(a), int(b)) for a, b in zip(table["layer"], table["head"], strict=True)]
    rows = [
        (
            linked(at, texts_of(at), described),
            row["attribute"],
            f"{row['share']:.0%}",
            f"{row['texts_about']} of {TOP}",
        )
        for at, row in zip(heads, table.to_dict("records"), strict=True)
    ]
    return section(
        ROLES,
        "How much of each head's variance every attribute of the pictures explains.",
        name="roles",
        found=sentences.roles(table, images),
        plot=roles_figure(known.shares, known.attributes, sorted(heads)),
        header=("head", "attribute", "explains, %", "texts name it"),
        rows=rows,
        made=made,
    )


# -- ablations -----------------------------------------------------------------------------


def listed(table: pd.DataFrame) -> pd.DataFrame:
    """Single heads that the page lists: all of a few, else those whose loss changes most."""
    rows = table[(table["scope"] == "all") & (table["study"] == "heads")]
    if len(rows) <= 3 * LISTED:
        return rows
    order = rows["change"].abs().sort_values(ascending=False, kind="stable")
    return rows.loc[order.index[:LISTED]]


def losses_of(table: pd.DataFrame) -> dict[Head, str]:
    """What accuracy loses without the heads that are listed, in points."""
    return {head_at(row["at"]): told(row) for _, row in listed(table).iterrows()}


def told(row: pd.Series) -> str:
    """A change in points; where its interval includes none, that none is shown."""
    return "none shown" if sentences.is_none(row) else sentences.points(row["change"])


def ablation_section(
    study: str,
    table: pd.DataFrame,
    classes: int,
    described: Collection[Head],
    warned: Sequence[str],
    made: Made,
) -> Section:
    """Accuracy when parts are replaced by their means.

    Parameters
    ----------
    table : DataFrame
        As ``heads.tables.ABLATIONS`` has it.
    classes : int
        Among which it is chosen.
    described : collection of (layer, head)
        Heads whose texts the page has.
    """
    whole = table[table["scope"] == "all"]
    baseline = whole[whole["study"] == "none"].iloc[0]
    rows = whole[whole["study"] == study]
    shown = listed(table) if study == "heads" else rows
    worst = _worst_groups(table) if study in ("chosen", "edits") else {}
    figure = ablation_figures(table[table["study"].isin([study, "none"])]).get(study)
    return section(
        TITLES[study],
        "" if len(shown) == len(rows) else f"The {len(shown)} heads that change accuracy most.",
        name=f"ablation-{study}",
        found=sentences.joined(
            [
                sentences.baseline(baseline, classes),
                sentences.ablated(study, rows),
                sentences.worst_group(table, rows.iloc[0]) if study in ("chosen", "edits") else "",
            ]
        ),
        notes=[*warned, *notes.chance(baseline, classes)],
        plot=() if figure is None else figure,
        header=(
            "replaced",
            "accuracy, %",
            "change, points (95%)",
            *(["worst group, %"] if worst else []),
        ),
        rows=[
            (
                _replaced(row, described),
                f"{100 * row['accuracy']:.1f}",
                "" if row["study"] == "none" else f"{told(row)} ({sentences.interval(row)})",
                *([worst[row["ablation"]]] if worst else []),
            )
            for _, row in pd.concat([baseline.to_frame().T, shown]).iterrows()
        ],
        made=made,
    )


def _replaced(row: pd.Series, described: Collection[Head]) -> str:
    """What was replaced; a single head with its texts, and where it is linked to."""
    if row["study"] == "heads":
        at = head_at(row["at"])
        return anchor(linked(at, texts_of(at), described), without(at))
    return sentences.replaced(row)


def _worst_groups(table: pd.DataFrame) -> dict[str, str]:
    """Accuracy of the worst group of every ablation; nothing where groups are not known."""
    groups = table[table["scope"] == "group"]
    worst = groups.loc[groups.groupby("ablation")["accuracy"].idxmin()]
    return {row["ablation"]: f"{100 * row['accuracy']:.1f}" for row in worst.to_dict("records")}
