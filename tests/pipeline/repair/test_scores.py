"""Logits with any gains, against all contributions written out in the joint space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.heads import ablation
from pipeline.heads.edits import edit_from, edited_embedding
from pipeline.heads.studies import maps_of
from pipeline.repair.gains import Components
from pipeline.repair.scores import Scorer
from pipeline.stats.reductions import reduce_store
from tests.pipeline.heads.direct import H, L, joint, make_maps, make_parts, reference_means
from tests.pipeline.repair import kit

SIZE = ablation.ModelSize(L, H)
COMPONENTS = Components(L, H)


def oracle(own, means, gains_s, classes):
    """One image and one part at a time: gain · contribution + (1 − gain) · mean."""
    heads_lh, blocks_s, bias_l = COMPONENTS.split(gains_s)
    logits = []
    for image in range(len(own["constant"])):
        total = own["constant"][image].copy()
        for part, gains in (("heads", heads_lh), ("blocks", blocks_s), ("attention_bias", bias_l)):
            for at in np.ndindex(gains.shape):
                total += gains[at] * own[part][image][at] + (1 - gains[at]) * means[part][at]
        logits.append([total @ text for text in classes])
    return np.array(logits)


def problem(seed, images=6):
    rng = np.random.default_rng(seed)
    maps = make_maps(rng)
    classes = rng.normal(size=(3, maps.mlp_map.shape[1]))
    parts, reference = make_parts(rng, maps, images), make_parts(rng, maps, 9)
    means = reference_means(reference)
    scorer = Scorer(COMPONENTS, means, ablation.Readout(maps, classes))
    own = joint(parts, maps)
    return rng, scorer, parts, own, {k: v.mean(0) for k, v in joint(reference, maps).items()}, means


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_logits_with_gains_are_those_of_the_parts_written_out(seed, share):
    rng, scorer, parts, own, mean, _ = problem(seed)
    gains_es = rng.uniform(size=(2, COMPONENTS.count))
    gains_es[:, rng.uniform(size=COMPONENTS.count) < share] = 1  # parts that are left alone
    as_it_is, *edited = scorer.edited(parts, gains_es)
    ones = np.ones(COMPONENTS.count)
    for gains_s, logits in zip([ones, *gains_es], [as_it_is, *edited], strict=True):
        expected = oracle(own, mean, gains_s, scorer.readout.classes)
        np.testing.assert_allclose(logits, expected, atol=1e-12)


def test_gains_of_nothing_are_ablations():
    _, scorer, parts, _, _, means = problem(4)
    heads = [(0, 1), (2, 0)]
    sizes = [COMPONENTS.without(heads), COMPONENTS.published(COMPONENTS.without(heads))]
    late = range(max(0, L - 4))
    made = [
        SIZE.ablation("heads", heads), SIZE.ablation("published", heads, layers=late, mlps=True)
    ]  # fmt: skip
    expected = ablation.logits(parts, means, scorer.readout, made)
    for a, b in zip(scorer.edited(parts, np.stack(sizes)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("layers", [3, 6])
def test_the_published_setting_and_random_sets(layers):
    components = Components(layers, 2)
    gains_s = components.published(components.without([(layers - 1, 1)]))
    heads_lh, blocks_s, bias_l = components.split(gains_s)
    early = max(0, layers - 4)
    assert not heads_lh[:early].any()
    assert not bias_l[:early].any()
    assert bias_l[early:].all()
    assert blocks_s.tolist() == [1] + layers * [0]
    assert heads_lh[early:].sum() == heads_lh[early:].size - 1
    chosen = [(layers - 1, 0), (layers - 2, 1), (layers - 1, 1)]
    sets = components.random(chosen)
    assert len({tuple(s) for s in sets}) > 1
    assert [len(set(s)) for s in sets] == [3] * 5
    assert min(layer for s in sets for layer, _ in s) >= early
    everywhere = components.random([(0, 0), *chosen])
    assert min(layer for s in everywhere for layer, _ in s) == 0
    assert components.random([]) == []
    assert components.away(components.without(chosen)) == sorted(chosen)


@pytest.mark.usefixtures("here")
def test_an_edit_file_gives_the_very_same_logits(tmp_path):
    store = kit.leaning_store(tmp_path)
    reductions, components = reduce_store(store), Components(2, 3)
    gains_s = components.with_gains(np.random.default_rng(1).uniform(size=(2, 3)))
    heads_lh, _, _ = components.split(gains_s)
    edit = edit_from(store, reductions, "some", {h: heads_lh[h] for h in np.ndindex(2, 3)})
    maps, chosen = maps_of(store), np.ones(50, bool)
    readout = ablation.Readout(maps, kit.READOUT.astype(float))
    scorer = Scorer(components, ablation.reduced_means(reductions), readout)
    (parts,) = scorer.parts(store, 1, chosen)
    _, logits = scorer.edited(parts, gains_s[None])
    expected = edited_embedding(parts, edit, maps) @ readout.classes.T
    np.testing.assert_allclose(logits, expected, atol=1e-12)
