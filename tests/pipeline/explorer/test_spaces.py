"""Spaces by their names, and what is nearest in one, held to a brute force in the joint space."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.explorer import spaces
from pipeline.explorer.library import Library, NotHere, Opened
from pipeline.explorer.spaces import parse_space
from pipeline.published import head_contributions
from pipeline.search.build import build
from storage.errors import FacetError, StoreError
from storage.results import save_result
from storage.store import Store
from tests.pipeline.search.index_kit import make

pytestmark = pytest.mark.usefixtures("here")
BAD = {5: "no picture"}


def look(store: Store) -> Opened:
    (opened,) = Library([store.url], [], lambda store, typed: {}).stores.values()
    return opened


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(str(tmp_path / "store"), BAD)


def label(store: Store, labels: dict[tuple[int, int], str]) -> None:
    """Labels of heads, as far as a search reads them."""
    import pyarrow as pa

    rows = [{"layer": a, "head": b, "label": name} for (a, b), name in labels.items()]
    save_result(store.url, "label", {}, {}, tables={"labels": pa.Table.from_pylist(rows)})


def written(store: Store, heads: list[tuple[int, int]]) -> np.ndarray:
    """What heads wrote, side by side in the joint space, published scale, (images, …) float64."""
    data, model = store.contributions().load(), store.model()
    every = head_contributions(
        data["heads"].values.astype(np.float64),
        model["head_map"].values.astype(np.float64),
        data["ln_std"].values.astype(np.float64),
    )
    norm = np.linalg.norm(data["embedding"].values.astype(np.float64), axis=1)
    return np.concatenate([every[:, a, b] for a, b in heads], 1) / norm[:, None]


def by_hand(rows: np.ndarray, query: np.ndarray, own: int | None) -> list[tuple[float, int]]:
    """Cosines with every image, one after the other; the largest first."""
    mean = np.nanmean(rows, 0)
    found = []
    for image, row in enumerate(rows):
        if image != own and np.isfinite(row).all():
            a = row - mean
            found.append((float(query @ a / np.linalg.norm(query) / np.linalg.norm(a)), image))
    return sorted(found, key=lambda pair: -pair[0])


def test_a_space_is_what_its_name_says(store: Store) -> None:
    here = look(store)
    assert parse_space(here, "whole").space.embedding
    assert parse_space(here, "head:1.2").space.heads == ((1, 2),)
    assert parse_space(here, "heads:1.2,0.1").space.heads == ((1, 2), (0, 1))
    assert parse_space(here, "layer:1").space.heads == ((1, 0), (1, 1), (1, 2))
    assert parse_space(here, "head:1.2").name == "layer 1, head 2"


def test_a_property_is_all_its_heads(store: Store) -> None:
    label(store, {(0, 1): "Colours", (1, 0): "place", (1, 2): "colours"})
    here = look(store)
    found = parse_space(here, "property:colours")
    assert found.space.heads == ((0, 1), (1, 2))
    assert "layer 0, head 1" in found.name
    with pytest.raises(NotHere, match="place"):
        parse_space(here, "property:animals")


@pytest.mark.parametrize("asked", ["head:2.0", "head:0.3", "heads:0.0,7.1", "layer:2"])
def test_what_the_model_does_not_have_is_not_here(store: Store, asked: str) -> None:
    with pytest.raises(NotHere, match="the model"):
        parse_space(look(store), asked)


@pytest.mark.parametrize("asked", ["", "whole:1", "head:", "layer:-1", "layer:x", "mlp:0", "head"])
def test_what_is_no_space_is_refused_with_what_is_one(store: Store, asked: str) -> None:
    with pytest.raises(FacetError, match=r"write whole, head:1\.3"):
        parse_space(look(store), asked)


@pytest.mark.parametrize("indexed", [False, True])
def test_the_nearest_of_a_property_are_those_of_its_heads_side_by_side(
    store: Store, indexed: bool
) -> None:
    """Centred, normalised, and not the average of the heads."""
    label(store, {(0, 1): "colours", (1, 2): "colours"})
    here = look(store)
    asked = parse_space(here, "property:colours")
    if indexed:
        build(store, asked.space)
    rows = written(store, [(0, 1), (1, 2)])
    expected = by_hand(rows, rows[3] - np.nanmean(rows, 0), own=3)
    found = spaces.nearest(here, asked, spaces.image_query(here, asked, 3), top=50)
    assert found.indexed == indexed
    assert [near.index for near in found.images] == [image for _, image in expected]
    scores = [near.score for near in found.images]
    np.testing.assert_allclose(scores, [s for s, _ in expected], atol=2e-3 if indexed else 1e-5)
    assert 3 not in {near.index for near in found.images}
    assert not set(BAD) & {near.index for near in found.images}
    assert found.images[0].key == f"image-{found.images[0].index}"


@pytest.mark.parametrize("indexed", [False, True])
def test_a_text_is_not_centred_and_images_are(store: Store, indexed: bool) -> None:
    here, text = look(store), np.random.default_rng(0).normal(size=store.meta.embed)
    text /= np.linalg.norm(text)
    asked = parse_space(here, "head:1.1")
    if indexed:
        build(store, asked.space)
    rows = written(store, [(1, 1)])
    deviations = rows - np.nanmean(rows, 0)
    query = spaces.text_query(here, asked, text.astype(np.float32))
    found = spaces.nearest(here, asked, query, metric="dot", top=5)
    scores = np.nan_to_num(deviations @ text, nan=-np.inf)
    assert [near.index for near in found.images] == np.argsort(-scores)[:5].tolist()
    np.testing.assert_allclose(
        [n.score for n in found.images], np.sort(scores)[::-1][:5], atol=1e-2
    )
    cosines = by_hand(rows, text, None)
    found = spaces.nearest(here, asked, query, top=5)
    assert [near.index for near in found.images] == [image for _, image in cosines[:5]]


@pytest.mark.parametrize("indexed", [False, True])
def test_only_images_that_fit_the_condition_are_found(store: Store, indexed: bool) -> None:
    here = look(store)
    asked = parse_space(here, "whole")
    if indexed:
        build(store, asked.space)
    query = spaces.image_query(here, asked, 0)
    found = spaces.nearest(here, asked, query, where="label == 'class-1'", top=100)
    assert {near.label for near in found.images} == {"class-1"}
    assert found.among == 13
    every = spaces.nearest(here, asked, query, top=100)  # what was found before is of its condition
    assert {near.label for near in every.images} > {"class-1"}
    with pytest.raises(FacetError, match="cannot be read"):
        spaces.nearest(here, asked, query, where="label ==")


def test_a_large_store_takes_an_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "DIRECT", 100)
    here = look(store)
    asked = parse_space(here, "head:0.0")
    with pytest.raises(StoreError, match=r"no index of heads/0\.0") as error:
        spaces.nearest(here, asked, spaces.image_query(here, asked, 0))
    assert error.value.remedy is not None
    assert error.value.remedy.name == "index"


def test_choices_are_spaces(store: Store) -> None:
    label(store, {(0, 1): "colours", (1, 2): "colours"})
    here = look(store)
    found = spaces.choices(here)
    assert ("property:colours", "colours (2 heads)") in {(c.address, c.name) for c in found}
    for choice in found:
        parse_space(here, choice.address)
