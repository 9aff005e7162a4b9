"""Two models over the same images, from the command to what is shown of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import align, extract, report, show
from pipeline.between import crossed
from pipeline.between.common import HELD_OUT, part_of
from pipeline.texts import load_pool
from pipeline.texts.encoding import TextEncoder
from storage import open_store
from storage.errors import FacetError
from storage.store import Store
from tests import tiny
from tests.commands_kit import next_config
from tests.pipeline.between.plain import plain_cca, plain_cka
from tests.refusals import refused

OTHER = tiny.tiny({"width": 32, "layers": 2, "head_width": 8}, embed_dim=20)


@pytest.fixture(scope="module")
def source(neurons_kept, tmp_path_factory) -> Store:
    """Four layers of three heads over 60 pictures, in shards of 32."""
    place = tmp_path_factory.mktemp("align") / "source"
    shutil.copytree(neurons_kept.url, place)
    return open_store(str(place))


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Store:
    """Another model over the first of these pictures and their like, in shards of 7."""
    folder = tmp_path_factory.mktemp("align")
    config = tiny.write_config(folder, OTHER)
    return extract.main(
        extract.ExtractConfig(
            images="microworld:n=48,seed=3,split=test", model=config, pretrained="none", seed=2,
            store=str(folder / "target"), store_dtype="float32", components=("heads",),
            shard_size=7, workers="here",
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(source, target) -> align.AlignConfig:
    return align.AlignConfig(source.url, target.url, layers="last:2", workers="here")


@pytest.fixture(scope="module")
def run(plain):
    return align.main(replace(plain, pool="microworld", texts_per_head=3))


def joined(source, target) -> list[list[int]]:
    """Rows of the images that both have, by a plain loop over keys."""
    there = source.images()["key"].to_pylist()
    here = target.images()["key"].to_pylist()
    pairs = [(there.index(key), i) for i, key in enumerate(here) if key in there]
    return [list(side) for side in zip(*pairs, strict=True)]


def unit(store, rows):
    found = store.embeddings().values[rows].astype(float)
    return found / np.linalg.norm(found, axis=1)[:, None]


def written(store, at, rows):
    norm = np.linalg.norm(store.embeddings().values, axis=1)[:, None]
    return (store.heads(*at).values / norm)[rows].astype(float)


def test_heads_are_held_against_each_other_as_by_the_images(source, target, run):
    rows = joined(source, target)
    assert run.found.facts["images"] == len(rows[0]) == 48
    assert not run.found.facts["same_list"]
    assert (run.found.facts["only_from"], run.found.facts["only_to"]) == (12, 0)
    pairs = run.found.pairs.set_index(["from_layer", "from_head", "to_layer", "to_head"])
    assert len(pairs) == 6 * 8
    for at in ((2, 0, 0, 1), (3, 2, 1, 3)):
        x, y = written(source, at[:2], rows[0]), written(target, at[2:], rows[1])
        found, correlations = pairs.loc[at], plain_cca(x, y)
        assert found["cka"] == pytest.approx(plain_cka(x, y), rel=1e-4)
        assert found["cca"] == pytest.approx(correlations.mean(), rel=1e-3)
        assert found["cca_largest"] == pytest.approx(correlations[0], rel=1e-3)
    whole = plain_cka(unit(source, rows[0]), unit(target, rows[1]))
    assert run.found.facts["embedding_cka"] == pytest.approx(whole, rel=1e-6)
    best = run.found.matches[0]
    of = pairs.xs((best.layer, best.head), level=("to_layer", "to_head"))["cka"]
    assert of.idxmax() == (best.from_layer, best.from_head)
    assert best.cka == pairs["cka"].max()


def test_texts_go_through_a_map_that_is_measured_on_other_images(source, target, run):
    rows = joined(source, target)
    keys = target.images()["key"].to_pylist()
    held = part_of([keys[i] for i in rows[1]]) == HELD_OUT
    x, y = unit(source, rows[0]), unit(target, rows[1])
    assert run.found.facts["held_out"] == held.sum()
    kept = run.result.arrays("map")
    foretold = (x - kept["from_mean"].values) @ kept["map"].values + kept["to_mean"].values
    apart, spread = (foretold - y)[held], y[held] - y[held].mean(0)
    assert run.found.facts["r2"] == pytest.approx(1 - (apart**2).sum() / (spread**2).sum())
    pool = load_pool("microworld")
    texts = TextEncoder(source).encode(pool.source, pool.texts).embeddings @ kept["map"].values
    first = {(m.layer, m.head): m.texts[0] for m in run.found.matches}
    for at in ((0, 0), (1, 2)):
        data = written(target, at, rows[1])
        scores = ((data - data.mean(0)) @ texts.T).var(0)
        best = int(scores.argmax())
        assert first[at].text == pool.texts[best]
        along = texts[best] / np.linalg.norm(texts[best])
        r2 = 1 - ((apart @ along) ** 2).sum() / ((spread @ along) ** 2).sum()
        assert first[at].r2 == pytest.approx(r2)
    assert all(len(m.texts) == 3 for m in run.found.matches)


def test_settings_of_alignments(plain, run, capsys, tmp_path):
    alone = align.main(plain)
    assert alone.found.pairs.equals(run.found.pairs)
    assert not any(m.texts for m in alone.found.matches)
    following = next_config(capsys.readouterr().out)
    assert following == replace(plain, pool="microworld", workers="auto")
    last = align.main(replace(plain, layers="last:1"))
    assert set(last.found.pairs["from_layer"]) == {3}
    assert set(last.found.pairs["to_layer"]) == {1}
    some = align.main(replace(plain, where="index >= 8"))
    assert some.found.facts["images"] == 40
    (tmp_path / "own.txt").write_text("red\nblue\n")
    own = align.main(replace(plain, pool=str(tmp_path / "own.txt"), texts_per_head=1))
    assert {t.text for m in own.found.matches for t in m.texts} <= {"red", "blue"}
    elsewhere = align.main(replace(plain, out=str(tmp_path / "place"), layers="last:1"))
    assert elsewhere.result.url.startswith(str(tmp_path / "place"))
    assert elsewhere.found.pairs.equals(last.found.pairs)


def test_several_scans_find_what_one_finds(plain, run, monkeypatch):
    monkeypatch.setattr(crossed, "CROSS_BYTES", 1)  # one pair of layers at a time
    found = align.main(replace(plain, where="index >= 0")).found  # another identity
    for name in ("cka", "cca", "cca_largest"):
        np.testing.assert_allclose(found.pairs[name], run.found.pairs[name], rtol=1e-9)


def test_a_store_is_most_like_itself(source):
    found = align.main(align.AlignConfig(source.url, source.url, workers="here")).found
    assert found.facts["same_list"]
    for match in found.matches:
        assert (match.from_layer, match.from_head) == (match.layer, match.head)
        assert (match.cka, match.cca) == pytest.approx((1, 1))
    assert found.facts["r2"] == pytest.approx(1, abs=1e-4)
    assert found.facts["embedding_cka"] == pytest.approx(1)


def test_what_was_aligned_is_shown(target, plain, run, capsys):
    align.main(replace(plain, pool="microworld", texts_per_head=3))
    assert "this very run was finished before" in capsys.readouterr().out
    found = show.main(show.ShowConfig("align", target.url, top=2)).found
    said = capsys.readouterr().out
    assert found.matches[0].texts[0].text in said
    assert f"R² of the map: {found.facts['r2']:.2f}" in said
    assert all(len(m.texts) == 2 for m in found.matches)
    show.main(show.ShowConfig("align", target.url, format="json"))
    assert len(json.loads(capsys.readouterr().out)["found"]["pairs"]) == 48
    show.main(show.ShowConfig("align", target.url, format="csv"))
    assert capsys.readouterr().out.startswith("layer,head,rank,text,")
    page = Path(report.main(report.ReportConfig(target.url))).read_text()
    assert f"align-{run.result.name}" in page
    assert found.warnings[0][:40] in page  # 48 images are few


def test_what_cannot_be_aligned_is_refused(plain, tmp_path):
    others = extract.main(
        extract.ExtractConfig(
            images="microworld:n=8,seed=4,split=test", model="microworld",
            pretrained="microworld", store=str(tmp_path / "s"), workers="here",
        )
    )  # fmt: skip
    for changes, message in (
        ({"from_": str(tmp_path / "gone")}, "no store at"),
        ({"layers": "3"}, "the model's layers are 0-1"),
        ({"where": "index == 0"}, "1 images are ok both in .*--from"),
        ({"where": "index < 4"}, "4 images are in both stores: too few for a map"),
        ({"where": "hue == 1"}, "no column 'hue'"),
        ({"texts_per_head": 3}, "--texts-per-head belongs to --pool"),
        ({"pool": "nothing.txt"}, "no pool and no file"),
    ):
        with refused(FacetError, message):
            align.main(replace(plain, **changes))
    with refused(FacetError, "no image in common"):
        align.main(replace(plain, from_=others.url, layers="last:1"))
