"""Numbers that are not finite stop a job, with where they began and what helps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.extraction.finite import first_place
from pipeline.heads.ablation import StoredParts
from pipeline.images.batches import load_batch
from pipeline.models import ModelSpec, load_model
from pipeline.models.errors import ModelError
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.rows import ok_images, passed_rows
from pipeline.stats.accuracy import predicted_classes
from pipeline.stats.moments import chunk
from pipeline.texts.embedding import encode_texts
from storage import ledger
from storage.errors import FacetError, NotFinite, StoreDtypeError
from tests.pipeline.extraction.kit import extract_all, new_store
from tests.tiny import FEW_WORDS, tiny, write_config

SOURCE = "microworld:n=4,seed=1,split=test"


def random_model(folder, dtype=torch.float32):
    path = write_config(folder, tiny(text=FEW_WORDS))
    return load_model(ModelSpec(path, "none"), dtype=dtype)


def enlarge(model, layer, factor):
    """The same function up to rounding, with neurons that are ``factor`` times as large."""
    mlp = model.visual.transformer.resblocks[layer].mlp
    mlp.c_fc.weight.mul_(factor)
    mlp.c_fc.bias.mul_(factor)
    mlp.c_proj.weight.div_(factor)
    return model


def one_shard(folder, model, name="s", **changes):
    store = new_store(folder / name, SOURCE, model, 4, **changes)
    extract_all(store, model)
    return store


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("visual.proj", torch.nan),
        ("visual.transformer.resblocks.1.ln_1.bias", torch.nan),
        ("visual.class_embedding", torch.inf),
        ("token_embedding.weight", -torch.inf),
        ("logit_scale", torch.nan),
    ],
)
def test_weights_that_are_not_finite_are_named_when_they_are_read(tmp_path, tensor, value):
    state = random_model(tmp_path).module.state_dict()
    state[tensor].view(-1)[0] = value
    save_file(state, tmp_path / "w.safetensors")
    size = f"1 of {state[tensor].numel():,}"
    with pytest.raises(ModelError, match=rf"w.safetensors of model .* {tensor} \({size}\)"):
        load_model(ModelSpec(str(tmp_path / "tiny.json"), str(tmp_path / "w.safetensors")))


def test_what_overflows_in_half_precision_says_where_and_which_precision_holds_it(tmp_path):
    model = enlarge(random_model(tmp_path), 1, 3e6)
    words = (
        r"images in a batch \(0, 1, 2, 3\): it begins in the neurons of MLP layer 1, and .* not "
        "finite in fp16 and are in fp32. Use `precision` bf16 or fp32, in a new store"
    )
    with pytest.raises(NotFinite, match=words):
        one_shard(tmp_path, model, "fp16", precision="fp16")
    for precision in ("bf16", "fp32"):
        assert one_shard(tmp_path, model, precision, precision=precision).validate() == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m.visual.conv1.weight.fill_(3e38), "the embedding of patches, before layer 0"),
        (
            lambda m: m.visual.transformer.resblocks[0].attn.in_proj_weight[:48].fill_(3e38),
            "the queries of .* layer 0",
        ),
        (
            lambda m: m.visual.transformer.resblocks[2].attn.in_proj_weight[96:].fill_(3e38),
            "the values of .* layer 2",
        ),
        (
            lambda m: m.visual.transformer.resblocks[1].mlp.c_proj.weight.fill_(3e38),
            "the output of MLP layer 1",
        ),
        (lambda m: m.visual.ln_post.weight.mul_(3e38), "the projection to the joint space"),
        (lambda m: m.visual.proj.zero_(), "the division by the embedding's length, which is zero"),
    ],
)
def test_finite_weights_whose_numbers_overflow_say_where(tmp_path, change, place):
    model = random_model(tmp_path)
    store = new_store(tmp_path / "s", SOURCE, model, 4, components=("heads", "mlps"))
    change(model)
    model.visual.proj.mul_(1e5)
    with pytest.raises(
        NotFinite, match=f"begins in {place}, in fp32 too: these weights are finite"
    ):
        extract_all(store, model)
    assert store.done_shards() == set()


def test_a_sound_model_has_no_such_place(tmp_path):
    model = random_model(tmp_path)
    assert first_place(model, torch.randn(2, 3, 32, 32)) is None


def test_what_the_store_cannot_hold_is_told_from_what_the_model_cannot(tmp_path):
    model = random_model(tmp_path)
    model.visual.transformer.resblocks[1].mlp.c_proj.weight.mul_(1e7)
    with pytest.raises(
        StoreDtypeError, match=r"mlps: .* images 0-3 does not fit float16; .*float32"
    ):
        one_shard(tmp_path, model, "half", components=("heads", "mlps"))
    assert one_shard(tmp_path, model, "full", store_dtype="float32").validate() == []
    # What is not kept need not fit.
    only = one_shard(tmp_path, model, "only", components=("heads",), token_layers=())
    assert float(only.contributions()["rounding"].max()) < 1e-3


def test_neurons_say_where_too(tmp_path):
    model = random_model(tmp_path)
    store = one_shard(tmp_path, model)
    known = ledger.read_part(store.url, 0)
    batch = load_batch(store.url, 0, 4, model.preprocess.resize)
    enlarge(model, 0, 3e6)
    half = NeuronPass(replace(model, dtype=torch.float16), (0,), ("coefficients", "peaks"))
    pictures = ok_images(model, batch, torch.from_numpy(batch.loaded.pixels), known, 0)
    with pytest.raises(NotFinite, match=r"begins in the neurons of MLP layer 0.*bf16 or fp32"):
        list(passed_rows(half, pictures))
    assert len(list(passed_rows(NeuronPass(model, (0,), half.quantities), pictures))) == 1


def test_a_text_tower_that_overflows_names_a_text(tmp_path):
    model = random_model(tmp_path)
    model.module.ln_final.weight.mul_(3e38)
    model.module.text_projection.mul_(1e5)

    def tokens(texts):
        return torch.ones(len(texts), model.module.context_length, dtype=torch.long)

    with pytest.raises(NotFinite, match=r"2 of 2 texts .* the first is that of 'a star'"):
        encode_texts(model.module, tokens, ["a star", "a heart"])


def test_nan_is_no_class():
    logits = np.array([[0.1, 0.3], [0.2, np.nan]])
    assert predicted_classes(logits[:1]).tolist() == [1]
    with pytest.raises(FacetError, match="1 of 4 logits are NaN or infinite"):
        predicted_classes(logits)


def test_what_reads_a_store_of_such_numbers_says_so_in_words():
    rows = np.ones((3, 2), np.float32)
    rows[1, 1] = np.inf
    with pytest.raises(FacetError, match=r"NaN or infinite values \(row 1\)"):
        chunk(rows)
    with pytest.raises(FacetError, match="their squares overflow"):
        chunk(np.array([[1e200], [-1e200]]))
    with pytest.raises(FacetError, match="scale is nan in row 0"):
        chunk(np.ones((2, 2)), scale=np.array([np.nan, 1]))
    nothing = np.full((1, 2), np.nan)
    with pytest.raises(FacetError, match="row 0 has no embedding"):
        StoredParts(nothing[None], nothing[None], nothing, np.ones(1))
