"""Section of the page: what heads are about, as a judge names it, with evidence and scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipeline.heads.describe import Head
from pipeline.labels.answers import Labels
from pipeline.labels.choices import ENOUGH, FIRST

from . import sentences
from .fragments import Bar, bars
from .heads import linked, texts_of
from .html import Made, Section, section


def labels_section(
    found: Labels,
    images: int,
    described: Collection[Head],
    warned: Sequence[str],
    made: Made,
) -> Section:
    """Every head's label, and how clearly the model's heads say theirs.

    Parameters
    ----------
    found : Labels
    images : int
        Over which heads were described.
    described : collection of (layer, head)
        Heads whose texts the page has.
    """
    rows = found.labels.to_dict("records")
    truth = any(row["role"] for row in rows)
    measured = ["really", "measured, %"] if truth else []
    return section(
        "What heads are about",
        f"The label of a head is the property that its first {FIRST} texts have in common, by "
        f"{found.judge}; beside it, how many of them fit it, what share of what they explain falls "
        "on those, and how far its texts span what another head's do.",
        name="labels",
        found=_said(found, images),
        notes=warned,
        plot=[bars([_bar(found, n) for n in range(FIRST + 1)])],
        header=("head", "label", "texts that fit", "share, %", "nearest head, overlap", *measured),
        rows=[
            (
                _named((row["layer"], row["head"]), described),
                row["label"] or "–",
                str(row["fitting"]),
                f"{100 * row['share']:.0f}",
                "–" if row["nearest"] is None else f"{row['nearest']}, {row['overlap']:.2f}",
                *(_measured(row) if truth else []),
            )
            for row in rows
        ],
        made=made,
    )


def _bar(found: Labels, n: int) -> Bar:
    """The share of heads with so many texts that fit."""
    name = f"{n} texts"
    return Bar(f"{n} of {FIRST} fit", _percent(found, name), found.scores[name])


def _named(at: Head, described: Collection[Head]) -> str:
    return linked(at, texts_of(at), described)


def _measured(row: dict) -> list[str]:
    """The attribute that explains most of a head, and how much the label's explains."""
    really = f"{row['role']}, {row['role_share']:.0%}" if row["role"] else "–"
    return [really, "–" if row["measured"] != row["measured"] else f"{100 * row['measured']:.0f}"]


def _percent(found: Labels, score: str) -> str:
    return f"{found.scores[score]:.0%}"


def _said(found: Labels, images: int) -> str:
    """What the scores say, in a paragraph."""
    heads = len(found.labels)
    said = [
        f"Of {heads:,} heads, described over {images:,} images, {_percent(found, 'association')} "
        f"have at least {ENOUGH} texts that fit their label (association), and "
        f"{_percent(found, 'entanglement')} share theirs with another head (entanglement)."
    ]
    if found.scores["unlabelled"]:
        said.append(f"{_percent(found, 'unlabelled')} have no label.")
    if found.scores["overlap"] == found.scores["overlap"]:
        said.append(
            f"The texts of two heads span the same space by {_percent(found, 'overlap')}, on "
            "average over all pairs."
        )
    if "agreement" in found.scores:
        said.append(
            f"The label is the attribute that really explains most of the head for "
            f"{_percent(found, 'agreement')} of the heads, and for "
            f"{_percent(found, 'agreement by variance')} with heads counted by their variance."
        )
    return sentences.joined(said)
