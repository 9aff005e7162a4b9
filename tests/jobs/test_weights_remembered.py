"""A store made from a weights file finds it again, or says what is wrong with it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs import extract, second_order
from pipeline.models import ModelSpec, load_model
from pipeline.texts.encoding import TextEncoder, store_model
from storage import open_store
from storage.errors import FacetError, StoreMismatch
from storage.weights import PLACE, remembered

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 4, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a model, its weights, and a store made from them by a relative path."""
    from pipeline.cluster import machines

    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    model = load_model(ModelSpec(str(folder / "tiny.json"), "none", 1))
    state = {name: value.contiguous() for name, value in model.module.state_dict().items()}
    save_file(state, folder / "w.safetensors")
    machines.work("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        extract.main(
            extract.ExtractConfig(
                images="microworld:n=12,seed=1,split=test", model=str(folder / "tiny.json"),
                pretrained="w.safetensors", store=str(folder / "store"), shard_size=6,
                workers="here",
            )
        )  # fmt: skip
    machines.work("ray")
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """The same for one test: the store remembers the file of this very folder."""
    place = Path(shutil.copytree(made, tmp_path / "own"))
    note = json.loads((place / "store" / PLACE).read_text())
    assert note["file"] == str(made / "w.safetensors")  # absolute
    assert set(note) == {"file", "size", "modified", "changed", "sha256"}
    (place / "store" / PLACE).write_text(json.dumps({"file": str(place / "w.safetensors")}))
    return place


def effects(folder: Path, **settings: object):
    config = second_order.SecondOrderConfig(
        str(folder / "store"), mlp_layers="0", top_k=3, workers="here", **settings
    )
    return second_order.main(config)


def change(file: Path) -> None:
    state = load_file(file)
    state["visual.proj"] += 1
    save_file(state, file)


def test_later_jobs_find_the_file(folder):
    before = open_store(str(folder / "store")).meta.digest()
    assert len(effects(folder).neurons) == 64
    store = open_store(str(folder / "store"))
    assert store.meta.digest() == before
    assert store.validate() == []
    TextEncoder(store).encode("words", ["a red star"])
    # So does the same job where it goes on with the store.
    effects(folder, images="microworld:n=14,seed=1,split=test")
    assert open_store(str(folder / "store")).meta.images == 14


def test_a_file_that_is_gone_is_asked_for_once(folder):
    moved = folder / "elsewhere.safetensors"
    (folder / "w.safetensors").rename(moved)
    with pytest.raises(FacetError, match=f"{folder / 'w.safetensors'} is gone"):
        effects(folder)
    store = open_store(str(folder / "store"))
    with pytest.raises(FacetError, match="is gone, or not on this machine"):
        TextEncoder(store).encode("words", ["a red star"])
    effects(folder, pretrained=str(moved))
    assert remembered(store.url) == str(moved)
    store_model(store)
    # The store goes on by another name of the same file, too, and keeps the one it was made with.
    effects(folder, images="microworld:n=14,seed=1,split=test")
    grown = open_store(store.url).meta
    assert (grown.images, grown.weights) == (14, "w.safetensors")


def test_a_file_that_has_changed_is_told_from_one_that_was_given(folder):
    change(folder / "w.safetensors")
    with pytest.raises(StoreMismatch, match="the weights file .* is not what it was: .*weights_di"):
        effects(folder)
    store = open_store(str(folder / "store"))
    with pytest.raises(StoreMismatch) as refused:
        store_model(store, str(folder / "w.safetensors"))
    assert "is not what it was" not in str(refused.value)
    save_file({"other": torch.zeros(1)}, folder / "w.safetensors")
    with pytest.raises(StoreMismatch, match=r"is not what it was: .*names are missing.*pretrained"):
        store_model(store)
    assert remembered(store.url) == str(folder / "w.safetensors")


def test_a_store_that_may_only_be_read_is_used(folder, monkeypatch):
    store = open_store(str(folder / "store"))
    (Path(store.url) / PLACE).unlink()

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "fsync", refuse)
    store_model(store, str(folder / "w.safetensors"))
    assert remembered(store.url) is None
    with pytest.raises(FacetError, match="a file called w.safetensors: say where"):
        store_model(store)
