"""Weights files as people have them, and names of models that are places."""

import argparse
import warnings

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.models import ModelSpec, check_supported, load_model
from pipeline.models.errors import ModelError
from tests.pipeline.models.kit import CONFIG, write_config


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return open_clip.CLIP(**CONFIG).state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


FORMS = {
    "compiled.pt": lambda s: prefixed(s, "_orig_mod."),
    "parallel.pt": lambda s: prefixed(s, "module."),
    "both.pt": lambda s: prefixed(s, "module._orig_mod."),
    "other-way.pt": lambda s: prefixed(s, "_orig_mod.module."),
    "tower-compiled.pt": lambda s: {n.replace("visual.", "visual._orig_mod."): v
                                    for n, v in s.items()},
    "open_clip.pt": lambda s: {"epoch": 3, "name": "run", "state_dict": prefixed(s, "module."),
                               "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1)},
    "trainer.ckpt": lambda s: {"state_dict": prefixed(s, "model."), "global_step": 7},
    "logit-bias.pt": lambda s: {**s, "logit_bias": torch.tensor(1.0)},
    "one-dim-scale.pt": lambda s: {**s, "logit_scale": s["logit_scale"].reshape(1)},
    "custom-text.pt": lambda s: {n if n.startswith(("visual.", "logit")) else f"text.{n}": v
                                 for n, v in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_are_the_same_weights_load_the_same(name, state, tmp_path):
    torch.save(FORMS[name](state), tmp_path / name)
    loaded = load_model(ModelSpec(write_config(tmp_path), str(tmp_path / name)))
    values = loaded.module.state_dict()
    assert all(torch.equal(values[n], v) for n, v in state.items())


@pytest.mark.parametrize("how", ["torch.safetensors", "safetensors.pt"])
def test_a_file_is_read_by_what_it_holds(how, state, tmp_path):
    save = torch.save if how.startswith("torch") else save_file
    save(state, tmp_path / how)
    loaded = load_model(ModelSpec(write_config(tmp_path), str(tmp_path / how)))
    assert torch.equal(loaded.module.state_dict()["visual.proj"], state["visual.proj"])


def test_a_pickle_is_refused_without_advice_to_run_it(state, tmp_path):
    torch.save(open_clip.CLIP(**CONFIG), tmp_path / "module.pt")
    with pytest.raises(ModelError, match=r"could run code: .*it holds open_clip") as caught:
        load_model(ModelSpec(write_config(tmp_path), str(tmp_path / "module.pt")))
    assert "weights_only" not in str(caught.value)


class Holder(nn.Module):
    """As OpenAI's archives: the same names, and three numbers beside them."""

    def __init__(self, state) -> None:
        super().__init__()
        for name, value in state.items():
            at, *inner = self, *name.split(".")[:-1]
            for part in inner:
                if part not in dict(at.named_children()):
                    at.add_module(part, nn.Module())
                at = getattr(at, part)
            at.register_buffer(name.rsplit(".", 1)[-1], value)
        self.register_buffer("input_resolution", torch.tensor(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_torchscript_archive_gives_its_tensors(state, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Holder(state)).save(str(tmp_path / "jit.pt"))
    loaded = load_model(ModelSpec(write_config(tmp_path), str(tmp_path / "jit.pt")))
    assert torch.equal(loaded.module.state_dict()["visual.proj"], state["visual.proj"])


def larger(state):
    shape = state["visual.positional_embedding"].shape
    return {**state, "visual.positional_embedding": torch.zeros(shape[0] + 3, shape[1])}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda s: {"vision_model.embeddings.class_embedding": torch.zeros(24)},
         "key names of Hugging Face's transformers"),
        (larger, r"1 have another shape \(visual.positional_embedding is 8×24, the model's 5×24\): "
                 "positions are not interpolated"),
        (lambda s: {n: v for n, v in s.items() if "ln_final" not in n},
         r"2 names are missing \(ln_final.bias, ln_final.weight\)"),
        (lambda s: {**s, "head.weight": torch.zeros(2)}, r"1 are not the model's \(head.weight\)"),
        (lambda s: {"optimizer": {"state": {}}}, "holds no tensors"),
        (lambda s: s["visual.proj"], r"holds a Tensor, .*save the model's state_dict\(\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_what_it_is(content, words, state, tmp_path, monkeypatch):
    torch.save(content(state), tmp_path / "w.pt")
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(ModelError, match=words) as caught:
        load_model(ModelSpec(write_config(tmp_path), str(tmp_path / "w.pt")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not the weights"),
        (b"", "is empty"),
        (b"PK\x03\x04 cut", "is damaged or no weights file"),
        (b"\x00" * 100, "is damaged or no weights file|could run code"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_weights_are_called_by_name(content, words, suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        load_model(ModelSpec(write_config(tmp_path), str(path)))


def test_arrays_of_big_vision_are_called_by_name(tmp_path):
    np.savez(tmp_path / "w.npz", **{"params/img/cls": np.zeros(3)})
    path = (tmp_path / "w.npz").rename(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="holds NumPy's arrays, as big_vision names them"):
        load_model(ModelSpec(write_config(tmp_path), str(path)))


@pytest.mark.parametrize(
    ("model", "pretrained", "words"),
    [
        ("openai/clip-vit-large-patch14-336", "openai",
         "write ViT-L-14-336-quickgelu/openai, or hf-hub:openai/clip"),
        ("somebody/their-clip", "none", "write hf-hub:somebody/their-clip"),
        ("hf-hub:their-clip", "none", "write hf-hub:ORGANISATION/NAME"),
        ("local-dir:/x", "none", "there is no such folder"),
        ("local-dir:/usr", "own", "neither open_clip_config.json nor config.json"),
        ("/tmp", "none", "model /tmp is a folder: write local-dir:/tmp"),
        ("ViT-B-32", "s3://b/x.pt", "are at a URL.*copy them to this machine"),
        ("ViT-B-32", "/tmp", "weights /tmp are a folder"),
    ],
)  # fmt: skip
def test_places_say_what_is_taken_instead(model, pretrained, words):
    with pytest.raises(ModelError, match=words):
        check_supported(ModelSpec(model, pretrained))


def test_names_that_are_near_nothing_are_not_answered_with_all_names():
    with pytest.raises(ModelError, match="unknown model 'zzz'. Supported are") as caught:
        check_supported(ModelSpec("zzz", "none"))
    assert "none" not in str(caught.value)
    assert len(str(caught.value)) < 350
