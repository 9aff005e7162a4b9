"""Text towers cut at the last text's end, against the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lean import open_clip
from pipeline.models.text_tower import encode_tokens, last_read
from pipeline.texts.embedding import encode_texts

VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
TOKENIZE = open_clip.SimpleTokenizer(context_length=20)


def model(kind: type, **text: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(embed_dim=8, vision_cfg=VISION, text_cfg={**TEXT, **text}).double().eval()


@pytest.fixture(
    scope="module",
    params=[
        (open_clip.CLIP, {}),
        (open_clip.CLIP, {"pool_type": "eos", "eos_id": 49407}),
        (open_clip.model.CustomTextCLIP, {}),
        (open_clip.model.CustomTextCLIP, {"pool_type": "eos", "eos_id": 49407}),
    ],
)
def causal(request):
    kind, text = request.param
    return model(kind, **text)


@settings(deadline=None, max_examples=8)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12), batch=st.integers(1, 5))
def test_a_causal_tower_is_cut_without_a_difference(causal, lengths, batch):
    texts = [" ".join(["dog", "star"][i % 2] for i in range(n)) for n in lengths]
    tokens_mt = TOKENIZE(texts, context_length=20)
    length = int(last_read(causal, tokens_mt).max()) + 1
    assert length == min(max(lengths) + 2, 20)  # the start and the end are tokens too
    with torch.inference_mode():
        expected = causal.encode_text(tokens_mt, normalize=True)
        cut = encode_tokens(causal, tokens_mt, length, True)
    torch.testing.assert_close(cut, expected, rtol=0, atol=1e-12)
    found = torch.from_numpy(encode_texts(causal, TOKENIZE, texts, batch))
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-7)


def test_what_lies_behind_the_longest_text_is_not_computed(causal):
    norm = next(m for name, m in causal.named_modules() if name.endswith("ln_final"))
    seen = []
    handle = norm.register_forward_hook(lambda _m, given, _o: seen.append(given[0].shape[:2]))
    encode_texts(causal, TOKENIZE, ["dog " * 9, "dog", "dog " * 3, "dog"], batch=2)
    handle.remove()
    assert [tuple(shape) for shape in seen] == [(2, 11), (2, 3)]


@pytest.mark.parametrize(
    "text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}]
)
def test_other_towers_are_run_whole(text):
    tower = model(open_clip.model.CustomTextCLIP, **text)
    assert last_read(tower, TOKENIZE(["a dog"], context_length=20)) is None
    found = encode_texts(tower, TOKENIZE, ["a dog", "a star on a red field"])
    with torch.inference_mode():
        whole = tower.encode_text(TOKENIZE(["a dog"], context_length=20), normalize=True)
    torch.testing.assert_close(torch.from_numpy(found[:1]), whole.float(), rtol=0, atol=2e-7)
