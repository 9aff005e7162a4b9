"""What judges said of heads, with evidence, as the tables that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.heads.choices import Head
from pipeline.heads.roles import KnownRoles

from .by_lexicon import Properties
from .by_model import Judged
from .choices import FIRST
from .scores import agreement, association, consistent, entanglement, overlaps


def first_texts(descriptions: pd.DataFrame, heads: Sequence[Head]) -> dict[Head, list[str]]:
    """The first texts of every head, by rank; none of a head that has no description."""
    found: dict[Head, list[str]] = {head: [] for head in heads}
    rows = descriptions[descriptions["rank"] < FIRST].sort_values("rank")
    for layer, head, text in rows[["layer", "head", "text"]].itertuples(index=False, name=None):
        found[(int(layer), int(head))].append(text)
    return found


def by_properties(
    properties: Properties,
    shares: NDArray[np.float64],
    texts: Mapping[Head, Sequence[str]],
    embeddings: Mapping[str, NDArray],
) -> dict[Head, Judged]:
    """What a lexicon says of every head, and of its texts.

    Parameters
    ----------
    properties : Properties
    shares : (heads, properties) float
        Of ``property_shares``.
    texts : dict of (layer, head) to sequence of str
        In the order of ``shares``.
    embeddings : dict of str to (E,) float
        Of every text.
    """
    found = {}
    for (head, of), share in zip(texts.items(), shares, strict=True):
        if not of or not share.any():
            found[head] = Judged(None, (), [])
            continue
        best = int(share.argmax())
        fits = properties.fitting(np.stack([embeddings[text] for text in of]))[:, best]
        found[head] = Judged(properties.names[best], tuple(map(bool, fits)), [])
    return found


def property_table(
    heads: Sequence[Head], names: Sequence[str], shares: NDArray[np.float64]
) -> pd.DataFrame:
    """A row for every head and property."""
    layer, head = np.repeat(np.array(heads, int), len(names), axis=0).T
    return pd.DataFrame(
        {
            "layer": layer,
            "head": head,
            "property": list(names) * len(heads),
            "share": shares.ravel(),
        }
    )


def text_table(descriptions: pd.DataFrame, judged: Mapping[Head, Judged]) -> pd.DataFrame:
    """The first texts of every head, and whether its label fits them."""
    rows = descriptions[descriptions["rank"] < FIRST]
    columns = ["layer", "head", "rank", "text", "explained_variance"]
    fits = [
        bool(judged[(layer, head)].fits and judged[(layer, head)].fits[rank])
        for layer, head, rank in rows[columns[:3]].itertuples(index=False, name=None)
    ]
    return rows[columns].assign(fits=fits)


def label_table(
    judged: Mapping[Head, Judged],
    texts: pd.DataFrame,
    directions: NDArray,
    variances: NDArray,
    known: KnownRoles | None,
) -> pd.DataFrame:
    """Every head's label with its evidence.

    Parameters
    ----------
    judged : dict of (layer, head) to Judged
    texts : DataFrame
        Of ``text_table``.
    directions : (heads, R, E) float
        Of the heads' first texts, in the order of ``judged``.
    variances : (L, H) float
        Of what every head writes.
    known : KnownRoles or None
        What heads are really about, where that is known.
    """
    heads = list(judged)
    near = overlaps(directions)
    np.fill_diagonal(near, -np.inf)
    roles = {} if known is None else _roles(known)
    rows = []
    for i, (layer, head) in enumerate(heads):
        label = judged[(layer, head)].label
        of = texts[(texts["layer"] == layer) & (texts["head"] == head)]
        explained = float(of["explained_variance"].sum())
        fitting = float(of.loc[of["fits"], "explained_variance"].sum())
        other = int(near[i].argmax())
        alone = len(heads) == 1
        role, role_share = roles.get((layer, head), (None, np.nan))
        measured = np.nan
        if known is not None and label in known.attributes:
            measured = float(known.shares[layer, head, known.attributes.index(label)])
        rows.append(
            {
                "layer": layer,
                "head": head,
                "label": label,
                "fitting": int(of["fits"].sum()),
                "share": fitting / explained if explained > 0 else 0.0,
                "explained": explained,
                "variance": float(variances[layer, head]),
                "overlap": np.nan if alone else float(near[i, other]),
                "nearest": None if alone else "{}.{}".format(*heads[other]),
                "role": role,
                "role_share": role_share,
                "measured": measured,
            }
        )
    return pd.DataFrame(rows)


def _roles(known: KnownRoles) -> dict[Head, tuple[str, float]]:
    columns = ["layer", "head", "attribute", "share"]
    rows = known.table[columns].itertuples(index=False, name=None)
    return {(layer, head): (role, share) for layer, head, role, share in rows}


def score_table(
    labels: pd.DataFrame, directions: NDArray, names: Sequence[str], known: KnownRoles | None
) -> pd.DataFrame:
    """Scores over all heads.

    Parameters
    ----------
    labels : DataFrame
        Of ``label_table``.
    directions : (heads, R, E) float
    names : sequence of str
        The properties that there were to choose from: agreement with the truth is told where all of
        them are attributes.
    known : KnownRoles or None
    """
    given = [label if isinstance(label, str) else None for label in labels["label"]]
    fitting = labels["fitting"].tolist()
    near = overlaps(directions)
    pairs = near[np.triu_indices(len(near), 1)]
    scores = {
        "entanglement": entanglement(given),
        "association": association(fitting),
        **{f"{n} texts": share for n, share in enumerate(consistent(fitting))},
        "unlabelled": given.count(None) / len(given),
        "overlap": float(pairs.mean()) if len(pairs) else np.nan,
    }
    if known is not None and set(names) <= set(known.attributes):
        described = labels["role"].notna()
        right = agreement(
            [label for label, there in zip(given, described, strict=True) if there],
            labels.loc[described, "role"].tolist(),
            labels.loc[described, "variance"].to_numpy(),
        )
        scores |= {"agreement": right[0], "agreement by variance": right[1]}
    return pd.DataFrame({"score": list(scores), "value": list(scores.values())})
