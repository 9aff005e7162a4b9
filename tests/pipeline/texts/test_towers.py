"""Text towers and tokenizers of Hugging Face's, from files on this machine, against open_clip."""

import json
from dataclasses import replace

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    M2M100Config,
    MT5Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from pipeline.models import ModelSpec, check_supported, hf_texts, load_model
from pipeline.texts.embedding import count_too_long, encode_texts
from pipeline.texts.encoding import TextEncoder, tokenizer_of
from pipeline.texts.towers import refuse_store_without_texts, refuse_without_texts
from storage.errors import FacetError
from storage.records import config_digest
from tests.pipeline.extraction.kit import new_store
from tests.tiny import VISION, tiny, write_config

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "dog", "star", "on", "red", "field"]
TEXTS = ["a dog", "a star on a red field", "a", "", "A Dog, on: a star!", "field " * 30]
SMALL = dict(vocab_size=len(WORDS), pad_token_id=0)
BERT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=99, **SMALL)  # fmt: skip
M2M = {f"{side}_{name}": value for side in ("encoder", "decoder")
       for name, value in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
# As open_clip's roberta, xlm-roberta, mt5 and nllb towers are set.
TOWERS = {
    "roberta": (RobertaConfig(**BERT), {"hf_proj_type": "linear"}),
    "xlm-roberta": (XLMRobertaConfig(**BERT), {"hf_pooler_type": "mean_pooler",
                                               "hf_proj_type": "mlp"}),
    "mt5": (MT5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **SMALL),
            {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}),
    "nllb": (M2M100Config(d_model=16, max_position_embeddings=99, **M2M, **SMALL),
             {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}),
}  # fmt: skip


def save_tokenizer(folder, pad="[PAD]", begin="[CLS] ", end="[SEP]"):
    words = {word: at for at, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin}$A {end}", special_tokens=[(w, words[w]) for w in WORDS[:3]]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]", bos_token="[CLS]", eos_token=end,
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache of a machine without network; makes folders of repositories in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def repository(name):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        return place / "snapshots" / ("0" * 40)

    return repository


def drawn(text, folder):
    """A CLIP with that text tower as open_clip builds it, its numbers at work."""
    given = {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}
    clip = open_clip.CustomTextCLIP(embed_dim=24, vision_cfg=VISION, text_cfg=given)
    torch.manual_seed(2)
    with torch.no_grad():
        for value in clip.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return clip.eval().requires_grad_(False)


@pytest.fixture(params=TOWERS)
def foreign(request, cache, tmp_path):
    """A model's configuration and weights, and its text tower's folder in the cache."""
    config, text = TOWERS[request.param]
    folder = cache("org/encoder")
    config.save_pretrained(folder)
    save_tokenizer(folder)
    text = {"hf_model_name": "org/encoder", "hf_tokenizer_name": "org/encoder", **text}
    clip = drawn(text, folder)
    state = {name: value.clone() for name, value in clip.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    path = write_config(tmp_path, {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text})
    return ModelSpec(path, str(tmp_path / "w.safetensors")), clip, folder


def test_foreign_towers_embed_as_in_open_clip(foreign):
    spec, clip, folder = foreign
    model = load_model(spec)
    assert model.has_texts
    refuse_without_texts(model)
    tokenizer = tokenizer_of(model)
    tokens = open_clip.tokenizer.HFTokenizer(str(folder), context_length=77)(TEXTS)
    assert torch.equal(tokenizer(TEXTS), tokens)
    with torch.inference_mode():
        expected = clip.encode_text(tokens, normalize=True)
        assert torch.equal(model.module.encode_text(tokens, normalize=True), expected)
    found = torch.from_numpy(encode_texts(model.module, tokenizer, TEXTS, batch=2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_without_its_encoder_a_model_has_images_and_the_same_identity(foreign, monkeypatch):
    spec, clip, folder = foreign
    whole = load_model(spec)
    random = load_model(replace(spec, pretrained="none"))
    (folder / "config.json").unlink()
    model = load_model(spec)
    assert not model.has_texts
    assert model.weights_digest == whole.weights_digest
    again = load_model(replace(spec, pretrained="none"))
    assert not again.has_texts
    assert again.weights_digest == random.weights_digest
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.module.encode_image(pixels), clip.encode_image(pixels))
    words = (
        r"no text can be embedded with model .*: its text tower is Hugging Face's org/encoder, "
        r"whose `config.json` this machine does not have in .*/hub: .*`hf download org/encoder .*, "
        r"or put its files into "
    )
    with pytest.raises(FacetError, match=words):
        tokenizer_of(model)


def test_a_folder_beside_the_model_is_looked_into_first(foreign, tmp_path):
    spec, _, folder = foreign
    for file in folder.iterdir():
        file.rename(tmp_path / file.name)
    folder.rmdir()
    model = load_model(spec)
    assert model.has_texts
    assert torch.equal(tokenizer_of(model)(["a dog"]), tokenizer_of(model)(["a  dog"]))


# -- open_clip's own text towers with tokenizers of Hugging Face's -------------------------

TOKENIZED = {
    # As for CLIPA, SigLIP, SigLIP 2 and CLIPS.
    "bert": ({"tokenizer_kwargs": {"strip_sep_token": True}}, {}),
    "siglip": ({"tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True,
                "proj_bias": True, "pool_type": "last"},
               {"pad": "[SEP]", "begin": ""}),
    "siglip2": ({"tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True,
                 "pool_type": "last"}, {"begin": ""}),
    "clips": ({"tokenizer_mode": "clips", "pool_type": "last"}, {}),
}  # fmt: skip


@pytest.fixture(params=TOKENIZED)
def tokenized(request, cache, tmp_path):
    text, kind = TOKENIZED[request.param]
    text = {"vocab_size": len(WORDS), "hf_tokenizer_name": "org/words", **text}
    config = tiny(text=text, custom_text=True)
    return ModelSpec(write_config(tmp_path, config), "none", 3), kind, cache("org/words")


def test_tokenizers_are_open_clip_s_from_local_files(tokenized):
    spec, kind, folder = tokenized
    model = load_model(spec)
    assert model.has_texts
    with pytest.raises(FacetError, match=r"tokenizer is Hugging Face's org/words, whose files \("):
        tokenizer_of(model)
    folder.mkdir(parents=True)
    save_tokenizer(folder, **kind)
    text = model.config["text_cfg"]
    given = {"tokenizer_mode": text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})}
    theirs = open_clip.tokenizer.HFTokenizer(str(folder), 16, **given)
    tokenizer = tokenizer_of(model)
    assert torch.equal(tokenizer(TEXTS), theirs(TEXTS))
    with torch.inference_mode():
        expected = model.module.encode_text(theirs(TEXTS), normalize=True)
    found = torch.from_numpy(encode_texts(model.module, tokenizer, TEXTS, batch=2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    longest = next(n for n in range(30) if count_too_long(tokenizer, ["dog " * n], 16)) - 1
    more = [tokenizer.tokenizer(" ".join(["dog"] * n)).input_ids for n in (longest, longest + 1)]
    kept = [int((tokenizer(["dog " * n])[0] == WORDS.index("dog")).sum()) for n in range(30)]
    assert kept[: longest + 1] == list(range(longest + 1))  # all of it is read
    assert kept[longest + 1 :] == [longest] * (29 - longest)  # and nothing longer is
    assert len(more[1]) == len(more[0]) + 1


def test_files_that_make_no_tokenizer_are_called_by_name(tokenized):
    spec, _, folder = tokenized
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FacetError, match="cannot be made of the files in .*snapshots"):
        tokenizer_of(load_model(spec))


def test_what_is_not_installed_is_named_with_its_extra(tokenized, monkeypatch):
    spec, _, _ = tokenized
    monkeypatch.setattr(hf_texts, "installed", lambda: False)
    with pytest.raises(FacetError, match=r"pip install 'facet-interp\[texts\]'"):
        refuse_without_texts(check_supported(spec))


# -- stores of models that have no text tower ----------------------------------------------


def test_a_store_of_an_image_tower_alone_refuses_new_texts(tmp_path):
    path = write_config(tmp_path, tiny())
    whole = load_model(ModelSpec(path, "none", 5))
    images = {n: v for n, v in whole.module.state_dict().items() if n.startswith("visual.")}
    save_file(images, tmp_path / "images.safetensors")
    model = load_model(ModelSpec(path, str(tmp_path / "images.safetensors")))
    store = new_store(
        tmp_path / "s", "microworld:n=2,seed=1", model, 2, architecture=path,
        architecture_digest=config_digest(model.config), weights="images.safetensors",
    )  # fmt: skip
    refuse_store_without_texts(store.url, store.meta)  # its configuration has one
    encoder = TextEncoder(store, str(tmp_path / "images.safetensors"))
    with pytest.raises(FacetError, match="holds the image tower alone. Extract with a") as caught:
        encoder.encode("words", ["a dog"])
    assert caught.value.remedy.name == "align"


def test_a_configuration_without_texts_names_what_brings_them(tmp_path):
    found = check_supported(ModelSpec(write_config(tmp_path, tiny()), "none"))
    config = {n: v for n, v in json.loads(json.dumps(found.config)).items() if n != "text_cfg"}
    bare = replace(found, config=config, name="timm:vit", has_texts=False)
    with pytest.raises(FacetError, match="model timm:vit has no text tower") as caught:
        refuse_without_texts(bare, "s3://b/store")
    assert caught.value.remedy.name == "align"
    assert caught.value.remedy.url == "s3://b/store"
