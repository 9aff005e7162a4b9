"""Sections of the page: what TextSpan and the ablations found."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.heads.names import head_name
from pipeline.heads.roles import KnownRoles
from pipeline.neurons.answers import CodeText

from .figures import ablation_figures, roles_figure, textspan_figure
from .html import Section, section

TITLES = {
    "mlps": "All MLPs replaced by their means",
    "layers": "Attention layers replaced by their means",
    "heads": "Single heads replaced by their means",
    "class-token": "The class token's own contribution replaced by its mean",
    "textspan": "All but the span of a head's first texts replaced by means",
    "chosen": "Chosen heads replaced by their means",
    "neurons": "Neurons' second-order effects replaced by their means",
    "effects": "Effects of neurons replaced by their means: first-order, second-order, indirect",
}
ROLES = "Heads against the truth"


def layer_title(layer: int) -> str:
    return f"What the heads of layer {layer} write, in words"


def signed(texts: Sequence[CodeText]) -> str:
    """``+ a red star · − snow``."""
    return " · ".join(f"{'+' if term.coefficient > 0 else '−'} {term.text}" for term in texts)


def textspan_sections(descriptions: pd.DataFrame, known: KnownRoles | None = None) -> list[Section]:
    """Heads in words; and, where the truth is known, which attribute each follows.

    Parameters
    ----------
    descriptions : DataFrame
        TextSpan's table ``descriptions``.
    known : KnownRoles, optional
    """
    sections = [
        section(
            layer_title(layer),
            "TextSpan's first five texts of every head.",
            plot=textspan_figure(descriptions, layer),
        )
        for layer in sorted(descriptions["layer"].unique(), reverse=True)
    ]
    if known is not None:
        roles = known.table
        heads = [(int(a), int(b)) for a, b in zip(roles["layer"], roles["head"], strict=True)]
        rows = [
            (head_name(r["layer"], r["head"]), r["attribute"], f"{r['share']:.0%}",
             f"{r['texts_about']} of 5")
            for r in roles.sort_values("share", ascending=False).to_dict("records")
        ]  # fmt: skip
        sections.append(
            section(
                ROLES,
                "How much of each head's variance every attribute of the pictures explains, and "
                "how many of its first five texts are about the attribute that explains most.",
                plot=roles_figure(known.shares, known.attributes, heads),
                header=("head", "attribute", "explains", "texts about it"),
                rows=rows,
            )
        )
    return sections


def ablation_sections(table: pd.DataFrame) -> list[Section]:
    """Accuracy when parts are replaced by their means, a section a study."""
    whole = table[table["scope"] == "all"]
    baseline = whole[whole["study"] == "none"].iloc[0]
    sections = []
    for study, figure in ablation_figures(table).items():
        rows = [
            (r.ablation, f"{r.accuracy:.1%}", f"{r.change:+.1%}", f"{r.low:.1%} to {r.high:.1%}")
            for r in whole[whole["study"] == study].itertuples()
        ]
        sections.append(
            section(
                TITLES[study],
                f"Zero-shot accuracy over {baseline['n']:,} images; {baseline['accuracy']:.1%} "
                "with nothing ablated. Intervals are 95%, by bootstrap.",
                plot=figure,
                header=("ablated", "accuracy", "change", "interval"),
                rows=rows if len(rows) <= 24 else [],
            )
        )
    return sections
