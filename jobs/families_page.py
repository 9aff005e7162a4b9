"""The page of families, ``docs/families.md``: what each is, what a store of it keeps, its models.

    python -m jobs.families_page

writes it anew: after a family takes more names, or ``benchmarks/families.json`` has other figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models.catalogue import Entry, entries
from pipeline.models.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "families.md"
MEASURED = ROOT / "benchmarks" / "families.json"
EXAMPLES = 4


@dataclass(frozen=True)
class About:
    """What is said of a family, or of a way of reading the stream."""

    what: str
    exact: str


# Rows of the page; a family that is not here is told by its name alone.
FAMILY = {
    "openclip-vit": "OpenCLIP's own ViT: OpenAI, OpenCLIP, MetaCLIP, DFN; CLIPA, which averages",
    "coca": "CoCa: a pool of queries, then a norm and a projection",
    "clip-resnet": "CLIP's ResNets: an attention pool over the last map",
    "timm-vit": "timm's ViT: supervised, DeiT 3, DINO, DINOv2, MAE, SigLIP, AIMv2, ViTamin",
    "eva": "timm's Eva: EVA01, EVA02, PE, DINOv3, whose names mean its class token "
    '(a config.json with `global_pool` "avg" its mean)',
    "beit": "timm's BEiT",
    "convnext": "ConvNeXt: the blocks of the last stage",
    "microworld-mae": "the embedded world's masked autoencoder",
    "microworld-cnn": "the last stage of the embedded world's CNN",
}
TAILS = {
    "class-token": About(
        "the class token behind the last block", "all: heads, MLPs, tokens, second-order effects"
    ),
    "mean": About(
        "the mean over tokens, then one norm", "all; weights of a token are averaged over queries"
    ),
    "mean-of-normed": About(
        "every token normed by itself, then the mean",
        "all; `bias_weights` hold how much attention's biases count in each image",
    ),
    "attention-pool": About(
        "a pool's queries attend to the trunk's tokens: the pool is the one layer",
        "the pool's heads, its MLP and tokens; of the trunk, second-order effects of neurons "
        "through the pool's heads: what it does through the pool's MLP is no sum, and is not told "
        "apart",
    ),
    "pixels": About(
        "the mean over positions: blocks write, and there are no heads",
        "MLPs and positions; what is told of heads is refused",
    ),
}


def page() -> str:
    """The page as it should be."""
    good = [entry for entry in entries() if not entry.why]
    parts = [
        "# Families",
        "What can be taken apart exactly, family by family. `facet models` lists every name, "
        "`facet models WORD` those that hold a word, with what a store of each would take; "
        "[Add a model family](add-a-family.md) says how one more is added. This page is made by "
        "`python -m jobs.families_page`.",
        _families(good),
        "## What the tail reads",
        _table(("tail", "is", "what is exact"), [(n, a.what, a.exact) for n, a in TAILS.items()]),
        "## What is not supported",
        _refused(),
    ]
    if MEASURED.is_file():
        parts += ["## Measured", _measured(json.loads(MEASURED.read_text(encoding="utf-8")))]
    return "\n\n".join(parts) + "\n"


def _families(good: Sequence[Entry]) -> str:
    rows = []
    for family in FAMILIES:
        of = [entry for entry in good if entry.family == family]
        timm = [entry for entry in of if entry.name.startswith("timm:")]
        readings = dict.fromkeys(entry.reading for entry in of)
        rows.append(
            (
                f"`{family}`",
                FAMILY.get(family, family),
                ", ".join(readings) or "–",
                str(len(of) - len(timm)),
                str(len(timm)),
                ", ".join(f"`{entry.name}`" for entry in _examples(of)),
            )
        )
    clip = sum(not entry.name.startswith(("timm:", "microworld")) for entry in good)
    timm_count = sum(entry.name.startswith("timm:") for entry in good)
    head = ("family", "models", "tail", "open_clip", "timm", "such as")
    return f"{clip} of open_clip's names and {timm_count} of timm's are supported.\n\n" + _table(
        head, rows
    )


def _examples(of: Sequence[Entry]) -> Sequence[Entry]:
    """A few that lie far apart in the list."""
    step = max(1, len(of) // EXAMPLES)
    return of[::step][:EXAMPLES]


def _refused() -> str:
    reasons: dict[str, list[str]] = {}
    for entry in entries():
        if entry.why and not entry.far:
            # One reason for models that differ in the trunk's name alone.
            reasons.setdefault(entry.why.replace(entry.name.removeprefix("timm:"), "…"), []).append(
                entry.name
            )
    rows = [
        (why, str(len(names)), ", ".join(f"`{name}`" for name in names[:EXAMPLES]))
        for why, names in reasons.items()
    ]
    far = sum(entry.far for entry in entries())
    return (
        f"{far} more names of timm's are of classes whose tail is not taken apart here.\n\n"
        + _table(("why", "names", "such as"), rows)
    )


def _measured(rows: dict[str, dict[str, Any]]) -> str:
    """What the benchmark of families found, by name."""
    head = ("name", "family", "tail", "residual", "float64 error", "speed", "an image")
    table = _table(
        head,
        [
            (
                f"`{name}`",
                f"`{row['family']}`",
                row["reading"],
                f"{row['residual']:.1e}",
                f"{row['error']:.0e}",
                f"{row['ratio']:.2f}",
                f"{row['bytes'] / 1000:.1f} kB",
            )
            for name, row in rows.items()
        ],
    )
    return (
        "Random weights, one core, as `python -m benchmarks.families` printed it. The residual is "
        "the largest of float32, the error that of the sum of all contributions in float64, both "
        "against the library's own output; the speed is that of the decomposition over the "
        "library's own forward pass.\n\n" + table
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
