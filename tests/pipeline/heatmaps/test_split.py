"""Shares of tokens, heads and layers, whichever heads are chosen."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.heatmaps.found import of_texts
from pipeline.heatmaps.split import TERMS, split_of

REST = ("other layers", "MLPs", "start", "attention biases", "last norm's bias")


@given(
    texts=st.integers(1, 3),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    prefix=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_nothing_is_lost_whatever_is_chosen(texts, layers, heads, prefix, seed):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(texts, layers, heads, prefix + 6))
    rest = {name: rng.normal(size=texts) for name in REST}
    logit = maps.sum((1, 2, 3)) + sum(rest.values())
    shares = SimpleNamespace(
        maps_bclht=torch.from_numpy(maps)[None], prefix=prefix, grid=(2, 3),
        rest={name: torch.from_numpy(share)[None] for name, share in rest.items()},
        logit_bc=torch.from_numpy(logit)[None],
    )  # fmt: skip
    numbers = [4 + 2 * i for i in range(layers)]  # of a deeper model
    chosen = {
        (layer, head) for layer in numbers for head in range(heads) if rng.random() < 0.5
    } or {(numbers[0], 0)}
    split = split_of(shares, numbers, chosen)
    np.testing.assert_allclose(split.residual_m, 0, atol=1e-12)
    wanted = {name: np.zeros(texts) for name in TERMS}
    patches = np.zeros((texts, 6))
    for i, layer in enumerate(numbers):
        for head in range(heads):
            of_head = maps[:, i, head]
            if (layer, head) in chosen:
                wanted["class_token"] += of_head[:, 0]
                wanted["registers"] += of_head[:, 1:prefix].sum(1)
                patches += of_head[:, prefix:]
            elif any(at[0] == layer for at in chosen):
                wanted["other_heads"] += of_head.sum(1)
            else:
                wanted["other_layers"] += of_head.sum(1)
    wanted["other_layers"] += rest["other layers"]
    wanted["mlps"], wanted["start"] = rest["MLPs"], rest["start"]
    wanted["constants"] = rest["attention biases"] + rest["last norm's bias"]
    for name in TERMS:
        np.testing.assert_allclose(split.rest[name], wanted[name], atol=1e-12)
    np.testing.assert_allclose(split.patches_mrc.reshape(texts, 6), patches, atol=1e-12)


def test_a_logit_of_nothing_has_no_share():
    shares = SimpleNamespace(
        maps_bclht=torch.tensor([[[[[0.0, 1.0, -1.0]]]]]), prefix=1, grid=(1, 2), rest={},
        logit_bc=torch.zeros(1, 1),
    )  # fmt: skip
    maps, table = of_texts(split_of(shares, [0]), ["snow"])
    assert maps.tolist() == [[[1.0, -1.0]]]
    assert np.isnan(table["share"][0])
    assert table["residual"][0] == pytest.approx(0)
