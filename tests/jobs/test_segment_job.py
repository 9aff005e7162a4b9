"""Maps of many methods held to masks: the job, on small models and the embedded world."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs import extract, segment
from jobs.recipes import segment as recipe
from jobs.segment import SegmentConfig
from jobs.settings import arguments
from pipeline.heatmaps import plan
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.bench import Bench, makers
from pipeline.heatmaps.choices import METHODS, method_of
from pipeline.heatmaps.erasure import Erasure
from pipeline.heatmaps.memory import gradient_bytes, relevance_bytes
from pipeline.heatmaps.plain import random_map
from pipeline.heatmaps.plan import written_bytes
from pipeline.heatmaps.scores import relevance, score
from pipeline.heatmaps.sheet import Sheet
from pipeline.images import micro
from pipeline.images.decode import read_bytes, to_image
from pipeline.microworld.draw import picture
from pipeline.microworld.world import SHAPES
from pipeline.neurons.found_directions import read_directions
from pipeline.neurons.setup import cpu_model
from pipeline.texts import load_classes
from pipeline.texts.classes import class_means
from pipeline.texts.encoding import TextEncoder
from storage import open_store
from storage.errors import FacetError, StoreError
from storage.images import read_images
from tests import tiny
from tests.jobs.neuron_store import KEPT, TINY
from tests.processes import wait_for
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[2]
EVERY = tuple(method for method in METHODS if method != "neurons")
SOME = ("tokens", "rollout", "gradcam", "transformer-attribution", "random")
SAME = ["image", "method", "protocol"]
BOTH = ("aligned", "published")
# Of layers, which methods but tokens leave alone.
DEFAULT = SegmentConfig("s", "c").layers


def asked(store: str, **changes) -> SegmentConfig:
    """A run that asks for little."""
    plain = SegmentConfig(
        store, "microworld:shape", methods=("tokens", "raw-attention", "random"), layers=("all",),
        batch_size=8, workers="here",
    )  # fmt: skip
    return replace(plain, **changes)


def pictures(run: recipe.SegmentRun) -> pd.DataFrame:
    """The numbers of every picture, row and protocol."""
    parts = sorted(Path(run.result.url, "pictures").iterdir())
    return pd.concat([pq.read_table(part).to_pandas() for part in parts], ignore_index=True)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Numbers of two runs agree, but for pixels whose relevance is the threshold's to 1e-5.

    The attention of a random model is nearly the same everywhere: what float32 rounds is then a
    larger part of the range that a map is scaled by, and pixels change their ranks.
    """
    a = a[a["method"].isin(b["method"])]
    a, b = (table.sort_values(SAME).reset_index(drop=True) for table in (a, b))
    assert a[[*SAME, "class", "key", "counted"]].equals(b[[*SAME, "class", "key", "counted"]])
    np.testing.assert_allclose(a["average_precision"], b["average_precision"], atol=5e-3)
    for name in ("correct", "intersection_foreground", "union_background"):
        assert (a[name] - b[name]).abs().max() <= 2


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny.write_config(tmp_path_factory.mktemp("model"), TINY)


def extracted(model: str, folder: Path, **changes) -> str:
    plain = extract.ExtractConfig(
        "microworld:n=24,seed=3,split=test", model, str(folder), "none", store_dtype="float32",
        shard_size=10, seed=5, workers="here",
    )  # fmt: skip
    return extract.main(replace(plain, **changes)).url


@pytest.fixture(scope="module")
def store(model, tmp_path_factory) -> str:
    return extracted(model, tmp_path_factory.mktemp("extracted") / "store")


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory) -> recipe.SegmentRun:
    """Every method but neurons, in one go."""
    place = str(tmp_path_factory.mktemp("whole") / "found")
    return segment.main(asked(store, methods=EVERY, protocol=BOTH, steps=2, out=place))


def assert_as_a_plain_loop(run: recipe.SegmentRun, config: SegmentConfig, every: int) -> None:
    """One picture at a time, straight from the makers, the masks and the scores."""
    opened = open_store(config.store)
    classes = load_classes(config.classes)
    texts = class_means(TextEncoder(opened).encode("classes", classes.flat).embeddings, classes)
    model = cpu_model(opened)
    effects = recipe.effects_of(config, opened)
    bench = recipe.bench_of(config, opened, classes, texts, effects)
    assert set(run.methods["method"]) == set(bench.rows)
    rows, table = read_images(opened.data).to_pylist(), pictures(run)
    for row in rows[::every]:
        pixels = torch.from_numpy(model.preprocess.to_uint8(to_image(row, read_bytes(row))).copy())
        images = model.preprocess.to_tensor(pixels[None])
        with torch.no_grad():
            of = (model.module.encode_image(images) @ torch.from_numpy(texts).T).argmax(1)
        _, seed, split = micro.parse(row["uri"])
        mask = Image.fromarray(picture(seed, split, row["offset"])[1]).resize((32, 32), 0)
        masks = torch.from_numpy(np.array(mask, np.uint8))[None]
        want = Asked(of, torch.from_numpy(texts), torch.tensor([row["index"]]))
        erasure = Erasure(model, config.steps) if config.steps else None
        for maker in makers(model, bench):
            made = maker(images, want)
            areas = erasure(images, want, made) if erasure else {}
            for name, maps in made.items():
                facts = METHODS[method_of(name)]
                found = score(relevance(maps, (32, 32), facts.clipped), masks, facts.threshold)
                at = table[(table["image"] == row["index"]) & (table["method"] == name)]
                assert sorted(at["protocol"]) == sorted(config.protocol)  # squares: the same
                assert (at["class"] == SHAPES[int(of)]).all()
                assert (at["correct"] - int(found.correct_b)).abs().max() <= 2
                precision = float(found.average_precision_b)
                np.testing.assert_allclose(at["average_precision"], precision, atol=5e-3)
                for figure, area in zip(
                    ("deletion", "insertion"), areas.get(name, ()), strict=False
                ):
                    np.testing.assert_allclose(at[figure], float(area), atol=1e-4, err_msg=figure)


def test_every_row_is_what_a_plain_loop_gives(whole, store):
    assert_as_a_plain_loop(whole, asked(store, methods=EVERY, protocol=BOTH, steps=2), 7)


def test_numbers_of_pictures_are_as_many_bytes_as_was_said(whole):
    parts = [pq.read_table(part) for part in Path(whole.result.url, "pictures").iterdir()]
    numbers = [part.drop_columns(["key", "class", "method", "protocol"]).nbytes for part in parts]
    rows = tuple(whole.methods["method"].unique())
    bench = Bench(rows, BOTH, (), np.empty((0, 0)), {}, "centred", {})
    assert sum(numbers) == pytest.approx(written_bytes(bench, 24), rel=0.1)


def test_classes_that_are_read_in_part_are_told(store, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("star\n" + "very " * 20 + "long\n")
    plain = asked(store, classes=str(tmp_path / "classes.txt"), methods=("random",))
    segment.main(replace(plain, layers=DEFAULT))
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"classes.txt: \d+ texts longer than the model reads, and cut off", said)


def test_batches_and_shards_change_nothing(whole, model, tmp_path):
    other = extracted(model, tmp_path / "s", shard_size=7)
    again = segment.main(asked(other, methods=SOME, protocol=BOTH, steps=2, batch_size=5))
    same(pictures(whole), pictures(again))
    ours, theirs = (run.methods.set_index(["method", "protocol"]) for run in (whole, again))
    for figure in ("miou", "deletion", "insertion"):
        want = ours.loc[theirs.index, figure]
        np.testing.assert_allclose(theirs[figure], want, atol=1e-4, err_msg=figure)


def test_pictures_that_lie_apart_are_each_their_own(whole, store):
    """A condition leaves gaps between the pictures of a batch: none is taken for another."""
    some = read_images(store).to_pylist()
    places = [row["index"] for row in some if row["shape"] in ("star", "heart", "ring")]
    assert (np.diff(places) > 1).any()
    run = segment.main(asked(store, where="shape in ('star', 'heart', 'ring')", protocol=BOTH))
    found, every = pictures(run), pictures(whole)
    assert sorted(set(found["image"])) == places
    same(every[every["image"].isin(places)], found)


def test_the_sheet_shows_the_pictures_that_it_names(whole, store):
    sheet, table = Sheet.of(whole.result), pictures(whole)
    assert sheet is not None
    assert [case.case for case in sheet.cases] == ["worst"] * 4 + ["middle"] * 4 + ["best"] * 4
    first = table[(table["method"] == sheet.methods[0]) & (table["protocol"] == "aligned")]
    iou = first["intersection_foreground"] / first["union_foreground"]
    assert max(case.iou for case in sheet.cases) == iou.max()
    resize = cpu_model(open_store(store)).preprocess.resize
    for n, case in enumerate(sheet.cases):
        row = first[first["image"] == case.image].iloc[0]
        assert (sheet.keys[n], sheet.classes[n]) == (row["key"], row["class"])
        assert case.iou == row["intersection_foreground"] / row["union_foreground"]
        pixels, objects, _ = picture(3, "test", case.image)
        np.testing.assert_array_equal(sheet.pictures_nyxc[n], resize(Image.fromarray(pixels)))
        mask = resize.mask(Image.fromarray(objects.astype(np.uint8)), 255)
        np.testing.assert_array_equal(sheet.masks_nyx[n], mask)
        drawn = random_map(case.image, sheet.maps_nmyx.shape[2:])
        at = list(sheet.methods).index("random")
        np.testing.assert_allclose(sheet.maps_nmyx[n, at], drawn, rtol=1e-6)


def test_the_same_command_again_does_nothing(whole, capsys):
    place = whole.result.url.partition("/results/")[0]
    config = asked(place, methods=EVERY, protocol=BOTH, steps=2)
    before = {p: p.stat().st_mtime_ns for p in Path(place).rglob("part-*")}
    again = segment.main(config)
    assert "this very run was finished before" in capsys.readouterr().out
    assert again.methods.equals(whole.methods)
    assert {p: p.stat().st_mtime_ns for p in Path(place).rglob("part-*")} == before
    assert not Path(whole.result.url, "parts").exists()


def test_a_killed_run_ends_in_the_same_result(whole, store, tmp_path, capsys):
    """Kill -9 once some shards are done; the same command goes on from there."""
    place = tmp_path / "found"
    config = asked(store, methods=SOME, protocol=BOTH, out=str(place))
    line = arguments({**asdict(config), "batch_size": 1})
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "segment", *line], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: list(place.rglob("part-*.json")) or process.poll() is not None, 240)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    # A shard is done once that has been said: a kill between the two leaves figures alone.
    done = {d.stem for d in place.rglob("part-*.json")}
    figures = place.rglob("part-*.parquet")
    kept = {p: p.stat().st_mtime_ns for p in figures if p.stem in done}
    assert 1 <= len(kept) < 3
    run = segment.main(config)
    assert "of 3 shards were done before" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in kept} == kept, "a finished shard was done again"
    same(pictures(whole), pictures(run))


def test_actors_give_what_one_process_gives(whole, store, tmp_path, ray_cluster):
    place = str(tmp_path / "found")
    run = segment.main(asked(store, methods=SOME, protocol=BOTH, workers="ray", out=place))
    same(pictures(whole), pictures(run))


def test_batches_are_halved_until_they_fit(store, here, monkeypatch):
    opened = open_store(store)
    meta, model = opened.meta, cpu_model(opened)
    texts = np.zeros((3, meta.embed), np.float32)
    classes = load_classes("microworld:shape")
    benches = {
        methods: recipe.bench_of(asked(store, methods=methods), opened, classes, texts, None)
        for methods in (("random",), ("gradient-attention",), ("random", "lrp"))
    }
    for methods, least in {
        ("gradient-attention",): gradient_bytes(meta, 8, ["gradient-attention"]),
        ("random", "lrp"): relevance_bytes(meta, 8, ["lrp"]),
    }.items():
        assert plan.batch_bytes(meta, model, benches[methods], 8) > least
    given = (meta, model, benches["random", "lrp"])
    assert plan.choose(*given, "cpu", None, None)[0].batch_size == 32
    need = {batch: plan.worker_bytes(*given, batch) for batch in (4, 8, 32)}
    monkeypatch.setattr(plan.machines, "node_memory", lambda: need[8])
    workers, memory = plan.choose(*given, "cpu", None, None)
    assert (workers.batch_size, memory) == (8, need[8])
    with refused(FacetError, "the largest node has .*: lower --batch-size, or take fewer --meth"):
        plan.choose(*given, "cpu", None, 32)
    # A batch has a limit of its own; what is there without any is no part of it.
    empty, four = (plan.batch_bytes(*given, batch) for batch in (0, 4))
    monkeypatch.setattr(plan, "BATCH_BYTES", four - empty)
    assert plan.choose(*given, "cpu", None, None)[0].batch_size == 4


# -- pictures and masks of a folder --------------------------------------------------------


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Nine pictures, one of them damaged, with masks: their left halves."""
    rng = np.random.default_rng(0)
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for folder in (photos, masks):
        folder.mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(0, 255, (48, 40, 3), np.uint8)).save(photos / f"{i}.png")
        half = np.zeros((48, 40), np.uint8)
        half[:, :20] = 255
        Image.fromarray(half).save(masks / f"{i}.png")
    (photos / "8.png").write_bytes(b"no picture")
    return photos, masks


def of_folders(model: str, folders: tuple[Path, Path], **changes) -> SegmentConfig:
    store = str(folders[0].parent / "s")
    if not Path(store).exists():
        extracted(model, Path(store), images=str(folders[0]), shard_size=4, max_bad=0.5)
    return asked(store, masks=str(folders[1]), **changes)


def test_what_is_left_out_is_counted_and_named(model, folders, capsys):
    masks = folders[1]
    (masks / "1.png").unlink()
    Image.new("L", (40, 40)).save(masks / "2.png")
    (masks / "3.png").write_bytes(b"no mask")
    run = segment.main(of_folders(model, folders))
    assert sorted(set(pictures(run)["image"])) == [0, 4, 5, 6, 7]
    assert run.methods["images"].eq(5).all()
    said = capsys.readouterr().out
    for words in ("no mask", "1.png", "a mask of another size than its picture", "2.png", "8.png"):
        assert words in said
    left_out = run.result.provenance["left_out"]
    assert sum(left_out.values()) == 4
    assert left_out["no mask"] == 1  # the damaged picture has its own reason


def test_what_was_read_anew_is_found_anew(model, folders, tmp_path):
    """Masks and classes are known by what they hold, not by where they are."""
    names = tmp_path / "classes.txt"
    names.write_text("a dog\na cat\n")
    config = of_folders(model, folders, classes=str(names), methods=("random",), layers=DEFAULT)
    first = segment.main(config)
    assert segment.main(config).result.name == first.result.name
    place = folders[1] / "4.png"
    half = np.asarray(Image.open(place))
    Image.fromarray(half[:, ::-1]).save(place)
    os.utime(place, (1, 1))
    other = segment.main(config)
    assert other.result.name != first.result.name
    was, now = (pictures(run).set_index("image")["correct"] for run in (first, other))
    assert was.index[was != now].tolist() == [4]
    names.write_text("a dog\na wolf\n")
    assert segment.main(config).result.name not in (first.result.name, other.result.name)


def test_pictures_that_are_others_now_are_refused(model, folders):
    config = of_folders(model, folders)
    Image.new("RGB", (40, 48), "red").save(folders[0] / "5.png")
    with refused(FacetError, "5.png.*the store was made"):
        segment.main(config)


def test_pictures_without_any_mask_are_refused_before_a_model_is_loaded(
    model, folders, monkeypatch
):
    masks = folders[1]
    config = of_folders(model, folders)
    for place in masks.iterdir():
        place.rename(place.with_name(f"mask-{place.name}"))
    monkeypatch.setattr(recipe, "cpu_model", None)
    with refused(FacetError, "none of the 9 pictures has a mask"):
        segment.main(config)


def test_images_of_no_finished_shard_are_refused(model, tmp_path, monkeypatch):
    store = extracted(model, tmp_path / "s")
    (tmp_path / "s" / "ledger" / "part-00000002.parquet").unlink()
    assert segment.main(asked(store)).methods["images"].eq(20).all()
    monkeypatch.setattr(recipe, "TextEncoder", None)
    with refused(FacetError, "--where 'index > 20' matches no image of the 2 finished shards"):
        segment.main(asked(store, where="index > 20"))


def test_masks_that_are_all_refused_are_told(model, folders):
    for place in folders[1].iterdir():
        Image.new("L", (3, 3)).save(place)
    with refused(FacetError, "none of 9 pictures could be held to a mask:(.|\n)*another size"):
        segment.main(of_folders(model, folders))


# -- settings ------------------------------------------------------------------------------


def test_settings_of_segmentations(neurons_kept, monkeypatch):
    plain = asked(neurons_kept.url, methods=("tokens",))

    def found(**changes):
        return segment.main(replace(plain, **changes))

    first = found()
    assert first.methods["method"].tolist() == ["tokens all"]
    assert first.methods["images"].tolist() == [60]
    rows = found(layers=("last:1", "0-1")).methods
    assert rows["method"].tolist() == ["tokens last:1", "tokens 0-1"]
    assert rows["miou"].nunique() == 2
    of = first.methods["map"].iloc[0]
    assert found(heads=("3.0",)).methods["map"].iloc[0] != of
    assert found(convention="equal-share").methods["map"].iloc[0] != of
    labelled = found(class_="label", classes="microworld:background", label_column="background")
    shown = set(labelled.classes["class"])
    assert shown == set(neurons_kept.images()["background"].to_pylist())
    assert shown != set(first.classes["class"])
    assert found(where="index < 20").methods["images"].tolist() == [20]
    assert first.methods["deletion"].isna().all()
    assert found(steps=2).methods["deletion"].notna().all()
    both = found(methods=("random", "raw-attention"), layers=DEFAULT, protocol=BOTH).methods
    assert both["method"].tolist() == ["random", "raw-attention"] * 2
    assert both["protocol"].tolist() == ["aligned"] * 2 + ["published"] * 2
    by_neurons = replace(plain, methods=("neurons",), layers=DEFAULT, mlp_layers=str(KEPT))
    neurons = segment.main(by_neurons)
    assert_as_a_plain_loop(neurons, by_neurons, 9)
    assert neurons.methods["method"].tolist() == ["neurons"]
    effects = recipe.effects_of(by_neurons, neurons_kept)
    other = replace(effects, url=f"{effects.url.rpartition('/')[0]}/other")
    monkeypatch.setattr(recipe, "effects_of", lambda *_: other)
    monkeypatch.setattr(recipe, "read_directions", lambda *_: read_directions(effects, [KEPT]))
    assert segment.main(by_neurons).result.name != neurons.result.name
    monkeypatch.undo()
    with refused(StoreError, "no second-order effects of MLP layers 1 .*facet second-order"):
        found(methods=("neurons",), layers=DEFAULT, mlp_layers="1")
