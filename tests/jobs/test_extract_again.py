"""A finished extraction run again is told from what is kept: no model is loaded for it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from jobs.extract import ExtractConfig, main
from jobs.recipes import extract as recipe
from pipeline.images.bad import BadImages, TooManyBadImages
from pipeline.models import ModelSpec, load_model
from storage import ledger, urls
from storage.errors import StoreMismatch
from storage.results import finished_results
from storage.weights import PLACE, holds
from tests.pipeline.images import kit
from tests.tiny import FEW_WORDS, tiny, write_config

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 7
CODE = """
import sys
from jobs.extract import ExtractConfig, main
main(ExtractConfig(*sys.argv[1:5], shard_size=4))
print(sorted({"torch", "open_clip", "torchvision", "ray"} & sys.modules.keys()))
"""


@pytest.fixture
def made(tmp_path, here) -> ExtractConfig:
    """A finished extraction of pictures in a folder, by weights from a file."""
    (tmp_path / "photos").mkdir()
    for i in range(IMAGES):
        (tmp_path / "photos" / f"{i}.png").write_bytes(kit.png(i))
    path = write_config(tmp_path, tiny({"layers": 4}, FEW_WORDS))
    model = load_model(ModelSpec(path, "none", 1))
    state = {name: value.contiguous() for name, value in model.module.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    places = ("photos", "tiny.json", "s", "w.safetensors")
    config = ExtractConfig(*(str(tmp_path / p) for p in places), shard_size=4, workers="here")
    main(config)
    return config


@pytest.fixture
def no_model(made, monkeypatch) -> ExtractConfig:
    """The same, and no model can be loaded any more."""

    def loaded(spec):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(recipe, "load_model", loaded)
    return made


def test_it_imports_no_torch_and_says_what_the_first_run_said(made):
    arguments = [made.images, made.model, made.store, str(made.pretrained)]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "all is done: this very run was finished before" in done.stdout
    assert f"{IMAGES} ok, 0 bad" in done.stdout
    assert "residual" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_weights_are_known_by_what_they_hold(no_model, tmp_path):
    main(no_model)
    os.utime(no_model.pretrained, (1, 1))
    main(no_model)
    shutil.copy(no_model.pretrained, tmp_path / "copy.safetensors")
    main(replace(no_model, pretrained=str(tmp_path / "copy.safetensors")))


def test_other_weights_under_the_same_name_are_refused(made):
    before = os.stat(made.pretrained)
    state = load_file(made.pretrained)
    state["visual.proj"] += 1
    save_file(state, made.pretrained)
    assert os.stat(made.pretrained).st_size == before.st_size
    assert not holds(made.store, made.pretrained)
    with pytest.raises(StoreMismatch, match="weights_digest"):
        main(made)


def test_other_weights_that_were_given_the_time_of_the_first_are_refused(made):
    before = os.stat(made.pretrained)
    state = load_file(made.pretrained)
    state["visual.proj"] += 1
    save_file(state, made.pretrained)
    os.utime(made.pretrained, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(made.pretrained)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(StoreMismatch, match="weights_digest"):
        main(made)


def test_a_run_that_was_stopped_after_its_last_shard_is_ended(made, capsys):
    (kept,) = finished_results(made.store, "extract")
    urls.remove(kept.url)
    main(made)
    (again,) = finished_results(made.store, "extract")
    assert again.name == kept.name
    assert "finished before" not in capsys.readouterr().out


def test_a_finished_run_with_more_bad_images_than_are_allowed_now_is_refused(no_model):
    rows, (facts,) = ledger.read_part(no_model.store, 1), ledger.read_facts(no_model.store, [1])
    facts |= BadImages.of(["6"], ["not an image"]).facts()
    ledger.write_part(no_model.store, 1, rows, facts)
    with pytest.raises(TooManyBadImages, match="1 of 7 images are bad, more than `max_bad` 0.01"):
        main(no_model)
    main(replace(no_model, max_bad=0.5))


def test_what_a_store_of_before_does_not_say_is_found_out_and_noted(made, monkeypatch):
    note = Path(made.store, PLACE)
    whole = json.loads(note.read_text())
    note.write_text(json.dumps({"file": whole["file"]}))
    main(made)
    assert json.loads(note.read_text()) == whole


def test_changed_images_are_refused_without_a_model(no_model):
    Path(no_model.images, "0.png").write_bytes(kit.png(99))
    with pytest.raises(StoreMismatch, match="made from other images"):
        main(no_model)


def test_other_settings_are_refused_without_a_model(no_model):
    with pytest.raises(StoreMismatch, match="store_dtype"):
        main(replace(no_model, store_dtype="float32"))


def test_new_images_and_missing_shards_are_extracted(made):
    Path(made.images, "x.png").write_bytes(kit.png(50))
    store = main(made)
    assert (store.meta.images, store.validate()) == (IMAGES + 1, [])
    Path(made.store, "ledger", "part-00000000.parquet").unlink()
    assert main(made).done_shards() == {0, 1}


@pytest.mark.parametrize("library", ["torch", "open_clip_torch"])
def test_random_weights_are_those_of_the_same_libraries(library, tmp_path, here, monkeypatch):
    path = write_config(tmp_path, tiny({"layers": 4}, FEW_WORDS))
    config = ExtractConfig("microworld:n=3", path, str(tmp_path / "s"), "none", workers="here")
    main(config)
    loaded = []
    monkeypatch.setattr(recipe, "load_model", lambda spec: loaded.append(spec) or load_model(spec))
    main(config)
    assert not loaded
    place = tmp_path / "s" / "contributions.zarr" / "zarr.json"
    kept = json.loads(place.read_text())
    kept["attributes"]["facet"]["versions"][library] = "0"
    place.write_text(json.dumps(kept))
    main(config)
    assert loaded
