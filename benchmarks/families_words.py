"""Words for models without texts, against the truth: ``python -m benchmarks.families_words``.

The embedded world's CLIP, masked autoencoder and CNN see the same pictures. Linear maps between
their embeddings are learnt as ``facet align`` learns them, and go two ways: the texts of the list
of properties are brought to the other model, as ``facet align`` does, or what the other's parts
write is brought to the CLIP, where the texts are. A part, a head or a channel of the last stage, is
then about the property whose texts explain most of its variance. The truth is the attribute whose
values explain most of it. Two things stand beside: the same labels dealt out anew among the parts
(chance), and maps learnt from pictures that are matched at random. The intervals of shares are
Wilson's, of 95%; parts of one model are not independent, which these do not know.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from numpy.typing import NDArray

from jobs import extract
from pipeline.between.common import PARTS, part_of
from pipeline.between.ridge import RidgeMap, ridge_map
from pipeline.heads.textspan import textspan
from pipeline.labels.by_lexicon import Properties
from pipeline.labels.choices import FIRST
from pipeline.labels.lexicon import load_lexicon
from pipeline.microworld.world import ATTRIBUTES
from pipeline.stats.moments import chunk
from pipeline.texts.encoding import TextEncoder
from storage.store import Store

Array = NDArray[np.float64]
NAMES = tuple(ATTRIBUTES)
# Maps from pictures matched at random, and deals of the labels.
MATCHED, DEALS = 5, 10_000


@dataclass(frozen=True)
class Settings:
    """Words for the embedded world's models without texts, against the truth."""

    images: int = 4000
    """Pictures of the test split."""
    seed: int = 77
    """Of the pictures."""
    matched: int = MATCHED
    """Maps from pictures that are matched at random."""
    stores: str = ""
    """A folder that keeps the stores; empty: they are thrown away."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one part of a model wrote: rows · map, centred, on the scale of the unit embedding."""

    name: str
    rows_nk: Array
    map_ke: Array

    def follows(self, values_an: NDArray[np.int64]) -> Array:
        """Share of its variance that the values of each attribute explain, (attribute,)."""
        gram = self.map_ke @ self.map_ke.T
        total = np.einsum("nk,kj,nj->", self.rows_nk, gram, self.rows_nk)
        between = []
        for values in values_an:
            counts = np.bincount(values)
            sums = np.zeros((len(counts), self.rows_nk.shape[1]))
            np.add.at(sums, values, self.rows_nk)
            between.append(np.einsum("vk,kj,vj,v->", sums, gram, sums, 1 / np.maximum(counts, 1)))
        return np.array(between) / total

    def told(self, way: Way) -> int:
        """The property whose first texts explain most of its variance; of a part that writes in
        one direction, which any text explains, that of the text nearest to it."""
        covariance = self.rows_nk.T @ self.rows_nk / len(self.rows_nk)
        map_ke = self.map_ke if way.map_ef is None else self.map_ke @ way.map_ef
        if len(map_ke) == 1:
            along = [
                np.abs(of @ map_ke[0] / np.linalg.norm(of, axis=1)).max()
                for of in way.properties.texts
            ]
            return int(np.argmax(along))
        spans = (
            textspan(covariance[None], map_ke[None], texts, FIRST, "explained-variance")
            for texts in way.properties.texts
        )
        return int(np.argmax([span.cumulative[0, -1] for span in spans]))


@dataclass(frozen=True, eq=False)
class Way:
    """Texts, and how what a model writes is brought to where they are."""

    properties: Properties
    map_ef: Array | None = None
    """None: the texts were brought to the model."""


@dataclass(frozen=True)
class Found:
    """How far the words of a model's parts agree with the truth.

    Attributes
    ----------
    truth, words : (P,) int64
        Attribute of each part, as a number of `NAMES`.
    follows : (P, attribute) float64
        Share of its variance that each attribute explains.
    by_matched : float or None
        Mean agreement of maps from pictures that were matched at random; None where none was made.
    """

    truth: NDArray[np.int64]
    words: NDArray[np.int64]
    follows: Array
    by_matched: float | None

    @property
    def agreement(self) -> float:
        """Share of parts whose words name the attribute that explains most of them."""
        return float((self.truth == self.words).mean())

    def interval(self) -> tuple[float, float]:
        """Wilson's, of 95%."""
        n, p, z = len(self.truth), self.agreement, 1.959964
        middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def chance(self) -> tuple[float, float, float]:
        """Agreement of the words dealt out anew: mean, 97.5% quantile, and how often it reaches
        what was found."""
        rng = np.random.default_rng(0)
        dealt = np.array([(rng.permutation(self.words) == self.truth).mean() for _ in range(DEALS)])
        reached = float((dealt >= self.agreement).mean())
        return float(dealt.mean()), float(np.quantile(dealt, 0.975)), reached

    @property
    def explained(self) -> tuple[float, float]:
        """Mean share of a part's variance: by the attribute that its words name, by the best."""
        rows = np.arange(len(self.words))
        return float(self.follows[rows, self.words].mean()), float(self.follows.max(1).mean())


def units(store: Store) -> Array:
    """Unit embeddings, (image, embed)."""
    found = store.embeddings().values.astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def learned(source: Array, target: Array, keys: Sequence[str]) -> RidgeMap:
    """The map from one model's unit embeddings to another's, as ``facet align`` learns it."""
    both, parts = np.concatenate([source, target], 1), part_of(list(keys))
    return ridge_map([chunk(both[parts == p]) for p in range(PARTS)], source.shape[1])


def heads_of(store: Store) -> list[Part]:
    """Every head."""
    data, head_map = store.contributions(), store.model()["head_map"].values.astype(np.float64)
    rows, meta = _scaled(data["heads"].values, data), store.meta
    return [
        Part(f"{layer}.{head}", rows[:, layer, head], head_map[layer, head])
        for layer in range(meta.layers)
        for head in range(meta.heads)
    ]


def blocks_of(store: Store) -> list[Part]:
    """The start, and what every block adds."""
    data, mlp_map = store.contributions(), store.model()["mlp_map"].values.astype(np.float64)
    rows = _scaled(data["mlps"].values, data)
    return [Part(f"block {s}", rows[:, s], mlp_map) for s in range(rows.shape[1])]


def channels_of(store: Store) -> list[Part]:
    """Every channel of the last stage that ever passes: what the start and all blocks add to it."""
    data, mlp_map = store.contributions(), store.model()["mlp_map"].values.astype(np.float64)
    rows = _scaled(data["mlps"].values, data).sum(1)
    return [
        Part(f"channel {c}", rows[:, c : c + 1], mlp_map[c : c + 1])
        for c in range(rows.shape[1])
        if rows[:, c].std() > 1e-6
    ]


def _scaled(values: NDArray[np.float16], data: object) -> Array:
    """Over σ and the embedding's length, less the mean."""
    norm = np.linalg.norm(data["embedding"].values.astype(np.float64), axis=1)  # type: ignore[index]
    scale = data["ln_std"].values.astype(np.float64) * norm  # type: ignore[index]
    rows = values.astype(np.float64) / scale.reshape(-1, *(1,) * (values.ndim - 1))
    return rows - rows.mean(0)


def truth_of(store: Store) -> NDArray[np.int64]:
    """Which value every picture has, as a number, (attribute, image)."""
    rows = store.images()
    found = [np.unique([str(v) for v in rows[a].to_pylist()], return_inverse=True) for a in NAMES]
    return np.stack([numbers for _, numbers in found])


def compared(parts: Sequence[Part], values_an: NDArray[np.int64], ways: Sequence[Way]) -> Found:
    """The words of some parts against the truth; the first way is the one that counts."""
    follows = np.stack([part.follows(values_an) for part in parts])
    truth = follows.argmax(1)
    words = [np.array([part.told(way) for part in parts]) for way in ways]
    by_matched = [float((w == truth).mean()) for w in words[1:]]
    return Found(truth, words[0], follows, float(np.mean(by_matched)) if by_matched else None)


def row(model: str, what: str, way: str, found: Found) -> str:
    """A row of the table."""
    low, high = found.interval()
    mean, most, reached = found.chance()
    own, best = found.explained
    right = int((found.truth == found.words).sum())
    cells = [
        model, what, way, f"{right} of {len(found.truth)}",
        f"{found.agreement:.0%} ({low:.0%}–{high:.0%})", f"{mean:.0%} (to {most:.0%})",
        f"{reached:.4f}", "" if found.by_matched is None else f"{found.by_matched:.0%}",
        f"{own:.0%}", f"{best:.0%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def extracted(settings: Settings, folder: str, model: str, components: tuple[str, ...]) -> Store:
    """A store of one of the embedded world's models."""
    world = f"microworld:n={settings.images},seed={settings.seed},split=test"
    place = f"{folder}/{model.replace(':', '-')}"
    return extract.main(
        extract.ExtractConfig(
            images=world,
            model=model,
            pretrained="microworld",
            store=place,
            components=components,
            workers="here",
        )
    )


def ways_between(
    settings: Settings, clip: Store, store: Store, texts: Array
) -> tuple[dict[str, list[Way]], dict[str, float]]:
    """Both ways, each with those of random matches behind it; and R² of each way's map."""
    lexicon, keys = load_lexicon("microworld"), clip.images()["key"].to_pylist()
    there, here = units(clip), units(store)
    rng = np.random.default_rng(settings.seed)
    orders = [np.arange(len(keys)), *(rng.permutation(len(keys)) for _ in range(settings.matched))]
    own, r2 = Properties.of(lexicon, texts), {}
    ways: dict[str, list[Way]] = {"texts to the model": [], "parts to the CLIP": []}
    for order in orders:
        to, back = learned(there[order], here, keys), learned(here, there[order], keys)
        ways["texts to the model"].append(Way(Properties.of(lexicon, to.texts(texts))))
        ways["parts to the CLIP"].append(Way(own, back.map_ef))
        r2 = r2 or {"texts to the model": to.r2, "parts to the CLIP": back.r2}
    return ways, r2


def main(settings: Settings) -> None:
    """Three stores, maps both ways, words and truth."""
    with tempfile.TemporaryDirectory() as folder:
        folder = settings.stores or folder
        clip = extracted(settings, folder, "microworld", ("heads", "mlps"))
        mae = extracted(settings, folder, "microworld:mae", ("heads", "mlps"))
        cnn = extracted(settings, folder, "microworld:cnn", ("mlps",))
        lexicon, values = load_lexicon("microworld"), truth_of(clip)
        texts = TextEncoder(clip).encode("microworld", lexicon.texts).embeddings.astype(float)
        found = compared(heads_of(clip), values, [Way(Properties.of(lexicon, texts))])
        rows, maps = [row("microworld", "heads", "its own texts", found)], []
        kinds = {"heads": heads_of(mae)}, {"blocks": blocks_of(cnn), "channels": channels_of(cnn)}
        by_head = {}
        for store, parts in zip((mae, cnn), kinds, strict=True):
            name = store.meta.architecture
            ways, r2 = ways_between(settings, clip, store, texts)
            maps.append(f"| {name} | {' | '.join(f'{r2[way]:.3f}' for way in ways)} |")
            for what, of in parts.items():
                for way, those in ways.items():
                    one = compared(of, values, those)
                    rows.append(row(name, what, way, one))
                    if what == "heads":
                        by_head[way] = one
        print(f"\n| R² on held-out pictures | {' | '.join(ways)} |\n|---|---|---|")
        print("\n".join(maps))
        columns = (
            "model", "parts", "way", "words name the attribute", "share (95%)",
            "dealt anew (97.5%)", "as often by chance", "maps of random matches",
            "variance by the words' attribute", "by the best",
        )  # fmt: skip
        print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        print("\n".join(rows))
        print(f"\n| head | truth | {' | '.join(by_head)} | {' | '.join(NAMES)} |")
        print("|---" * (2 + len(by_head) + len(NAMES)) + "|")
        for i, part in enumerate(heads_of(mae)):
            words = [NAMES[of.words[i]] for of in by_head.values()]
            one = by_head["parts to the CLIP"]
            cells = [part.name, NAMES[one.truth[i]], *words, *(f"{s:.0%}" for s in one.follows[i])]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
