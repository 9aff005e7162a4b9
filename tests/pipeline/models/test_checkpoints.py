"""Where weights are: parts by an index, folders, Hugging Face's cache without network."""

import json
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from pipeline.models import ModelSpec, check_supported, hub, load_model, loading
from pipeline.models.checkpoint import HubFile, hub_file_of, weights_in
from pipeline.models.errors import ModelError
from pipeline.models.openclip_files import get_pretrained_cfg
from tests.pipeline.models.kit import write_config

SUFFIXES = ("safetensors", "bin")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(ModelSpec(write_config(tmp_path_factory.mktemp("model")), "none", 5))


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


def in_parts(state, folder, suffix):
    """A state dict in three files, and the index of them."""
    names = sorted(state)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for part in range(3):
        file = f"{stem}-{part + 1:05d}-of-00003.{suffix}"
        held = {name: state[name].clone() for name in names[part::3]}
        save(held, folder / file)
        places |= dict.fromkeys(held, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_are_the_whole(suffix, model, tmp_path):
    index = in_parts(model.module.state_dict(), tmp_path, suffix)
    path = write_config(tmp_path)
    assert load_model(ModelSpec(path, str(index))).weights_digest == model.weights_digest
    part = next(tmp_path.glob(f"*-00002-of-00003.{suffix}"))
    with pytest.raises(ModelError, match=rf"is one of 3: give the index .*, {index}$"):
        load_model(ModelSpec(path, str(part)))
    part.unlink()
    with pytest.raises(ModelError, match=rf"1 are not beside it: {part.name}: copy"):
        load_model(ModelSpec(path, str(index)))


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"weight_map": 3}'])
def test_what_is_no_index_says_so(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    spec = ModelSpec(write_config(tmp_path), str(tmp_path / "model.safetensors.index.json"))
    with pytest.raises(ModelError, match="cannot be read: .* must be JSON with weight_map"):
        load_model(spec)


def test_a_folder_holds_one_model(tmp_path):
    with pytest.raises(ModelError, match="must hold one file of weights .*; it has none"):
        weights_in(tmp_path)
    for name in ("epoch_1.pt", "epoch_2.pt", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"it has epoch_1.pt, epoch_2.pt"):
        weights_in(tmp_path)
    (tmp_path / "epoch_1.pt").unlink()
    assert weights_in(tmp_path).name == "epoch_2.pt"
    for name in (
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "open_clip_model.safetensors",
    ):
        (tmp_path / name).touch()
        assert weights_in(tmp_path).name == name


# -- the hub's cache -----------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub on a machine without network; it makes folders of repositories."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def repository(name, revision="0" * 40):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(revision)
        folder = place / "snapshots" / revision
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    return repository


def from_hub(file, path, monkeypatch):
    architecture = replace(check_supported(ModelSpec(path, "none")), checkpoint=file)
    monkeypatch.setattr(loading, "check_supported", lambda spec: architecture)
    return load_model(ModelSpec(path, "own"))


@pytest.mark.parametrize("parts", [False, True])
def test_weights_come_from_the_cache_without_network(parts, model, cache, tmp_path, monkeypatch):
    folder, state = cache("org/clip"), model.module.state_dict()
    in_parts(state, folder, "bin") if parts else torch.save(state, folder / "weights.pt")
    names = ("absent.safetensors", "pytorch_model.bin.index.json" if parts else "weights.pt")
    path = write_config(tmp_path)
    loaded = from_hub(HubFile("org/clip", names), path, monkeypatch)
    assert loaded.weights_digest == model.weights_digest
    if parts:
        next(folder.glob("*-00002-of-*")).unlink()
        words = r"pytorch_model-00002-of-00003.bin of org/clip is not in .*/hub"
        with pytest.raises(ModelError, match=words):
            from_hub(HubFile("org/clip", names), path, monkeypatch)


def test_what_the_cache_lacks_is_named_with_what_fetches_it(cache, tmp_path):
    file = HubFile("org/clip", ("a.safetensors", "a.bin"), "v2")
    with pytest.raises(ModelError) as caught:
        hub.fetch(file, "the weights file of it")
    assert str(caught.value) == (
        f"the weights file of it is not on this machine: a.safetensors or a.bin of org/clip is not "
        f"in {tmp_path}/hub, and the hub cannot be reached. Where there is a network, run `hf "
        "download org/clip a.bin --revision v2` and copy that folder here (HF_HOME says where it "
        "is), or give a file by `pretrained`"
    )


def test_a_tag_is_the_file_that_open_clip_takes():
    of = {
        ("ViT-B-32", "laion2b_s34b_b79k"): ("open_clip_model.safetensors",
                                            "open_clip_pytorch_model.bin"),
        ("ViT-B-32-quickgelu", "openai"): ("open_clip_model.safetensors",
                                           "open_clip_pytorch_model.bin"),
        ("EVA01-g-14", "laion400m_s11b_b41k"): ("open_clip_model.safetensors",
                                                "open_clip_pytorch_model.bin"),
    }  # fmt: skip
    for (name, tag), names in of.items():
        assert hub_file_of(get_pretrained_cfg(name, tag)).names == names
    assert hub_file_of({"hf_hub": "org/a/w.pt"}) == HubFile("org/a", ("w.pt",))
    assert hub_file_of({"hf_hub": "org/a/w.bin"}) == HubFile("org/a", ("w.safetensors", "w.bin"))
    assert hub_file_of({"url": "https://x/y.pt"}) is None


def test_a_tag_at_an_address_is_taken_from_torch_s_own_cache(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.module.state_dict(), tmp_path / "checkpoints" / "y.pth")
    loaded = from_hub({"url": "https://x/y.pth"}, write_config(tmp_path), monkeypatch)
    assert loaded.weights_digest == model.weights_digest
