"""Ablations over stored factors against the joint space, expanded in float64."""

import pickle
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest

from pipeline.heads import ablation as ablate
from pipeline.models import ModelMaps
from pipeline.stats.accuracy import ChanceWarning, accuracy_table, add, count, join
from tests.pipeline.heads.direct import E, H, L, joint, make_maps, make_parts, reference_means

N, REFERENCE, C = 40, 60, 5
SIZE = ablate.ModelSize(L, H)


def oracle(
    parts: ablate.StoredParts,
    reference: ablate.StoredParts,
    maps: ModelMaps,
    classes: np.ndarray,
    ablation: ablate.Ablation,
) -> np.ndarray:
    """Logits from the sum of all contributions, some of them replaced."""
    own, means = joint(parts, maps), {k: v.mean(0) for k, v in joint(reference, maps).items()}
    heads, blocks, bias = own["heads"].copy(), own["blocks"].copy(), own["attention_bias"].copy()
    heads[:, ablation.heads] = means["heads"][ablation.heads]
    for at, rows in ablation.spans.items():
        mean = means["heads"][at]
        heads[:, *at] = mean + (own["heads"][:, *at] - mean) @ rows.T @ rows
    blocks[:, ablation.blocks] = means["blocks"][ablation.blocks]
    bias[:, ablation.attention_bias] = means["attention_bias"][ablation.attention_bias]
    total = heads.sum((1, 2)) + blocks.sum(1) + bias.sum(1) + own["constant"]
    if ablation.class_token:
        total += means["class_token"] - own["class_token"]
    return total @ classes.T


@pytest.fixture(scope="module")
def world() -> tuple[ModelMaps, ablate.StoredParts, ablate.StoredParts, np.ndarray]:
    rng = np.random.default_rng(0)
    maps = make_maps(rng)
    classes = rng.normal(size=(C, E))
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    return maps, make_parts(rng, maps, N), make_parts(rng, maps, REFERENCE), classes


def directions(rows: int) -> dict[ablate.Head, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        head: np.linalg.qr(rng.normal(size=(E, rows)))[0].T for head in ((1, 0), (2, 0), (2, 1))
    }


STUDIES = {
    "mlps": ablate.all_mlps(SIZE),
    "accumulated": ablate.accumulated_layers(SIZE),
    "layers": ablate.single_layers(SIZE),
    "heads": ablate.single_heads(SIZE),
    "class-token": ablate.class_token(SIZE, range(SIZE.layers)),
    "spans": ablate.spans(SIZE, directions(4), [1, 2, 4], "TextSpan"),
    "random": ablate.random_heads(SIZE, 3, 4),
    "nothing": [SIZE.ablation("nothing")],
}


@pytest.mark.parametrize("study", STUDIES)
def test_logits_equal_those_of_the_expanded_joint_space(
    study: str, world: tuple[ModelMaps, ablate.StoredParts, ablate.StoredParts, np.ndarray]
) -> None:
    maps, parts, reference, classes = world
    means = reference_means(reference)
    found = list(ablate.logits(parts, means, ablate.Readout(maps, classes), STUDIES[study]))
    assert len(found) == 1 + len(STUDIES[study])
    for ablation, values in zip([SIZE.ablation("none"), *STUDIES[study]], found, strict=True):
        expected = oracle(parts, reference, maps, classes, ablation)
        np.testing.assert_allclose(values, expected, atol=1e-12, err_msg=ablation.name)


def test_float32_and_float16_factors_give_the_same_logits_up_to_rounding(
    world: tuple[ModelMaps, ablate.StoredParts, ablate.StoredParts, np.ndarray],
) -> None:
    maps, parts, reference, classes = world
    stored = replace(
        parts,
        heads_blhk=parts.heads_blhk.astype(np.float16),
        mlps_bsd=parts.mlps_bsd.astype(np.float16),
    )
    means = reference_means(reference)
    studies = [*STUDIES["mlps"], *STUDIES["accumulated"], *STUDIES["spans"]]
    exact = ablate.logits(parts, means, ablate.Readout(maps, classes), studies)
    quick = ablate.logits(stored, means, ablate.Readout(maps, classes.astype(np.float32)), studies)
    for a, b in zip(exact, quick, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, atol=5e-3)


def test_bad_ablations_are_refused(
    world: tuple[ModelMaps, ablate.StoredParts, ablate.StoredParts, np.ndarray],
) -> None:
    maps, parts, reference, classes = world
    with pytest.raises(ValueError, match="both by its mean and by a projection"):
        SIZE.ablation("x", heads=[(1, 0)], spans=directions(2))
    with pytest.raises(ValueError, match="taken away twice"):
        SIZE.ablation("x", layers=[0], class_token=True)
    with pytest.raises(ValueError, match="7 random heads out of 6"):
        ablate.random_heads(SIZE, 7, 1)
    with pytest.raises(ValueError, match="encoded by the model of this store"):
        ablate.Readout(maps, classes[:, :-1])
    without = replace(reference, class_token_be=None)
    with pytest.raises(ValueError, match="`components` tokens"):
        ablate.predict(
            without,
            reference_means(without),
            ablate.Readout(maps, classes),
            STUDIES["class-token"],
        )
    masked = parts.ln_std_b.copy()
    masked[3] = np.nan
    with pytest.raises(ValueError, match="row 3 has no embedding"):
        replace(parts, ln_std_b=masked)


def test_random_baselines_are_reproducible_and_of_the_size_asked_for() -> None:
    first, second = (
        ablate.random_heads(SIZE, 2, 3, seed=1, among=[(0, 0), (0, 1), (2, 1)]) for _ in "ab"
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.heads, b.heads)
        assert a.heads.sum() == 2
        assert not a.heads[1].any()
    rows = ablate.random_directions(10, 6, seed=2)
    assert rows.shape == (10, 6)
    np.testing.assert_array_equal(rows, ablate.random_directions(10, 6, seed=2))


def test_accuracies_by_class_and_group_with_paired_changes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    groups = np.where(rng.random(600) < 0.3, "night", "day").tolist()
    base = np.where(rng.random(600) < 0.9, truth, (truth + 1) % 3)
    after = np.where(rng.random(600) < 0.2, (base + 1) % 3, base)
    table = accuracy_table(
        count(np.stack([base, base, after]), truth, 3, groups), ["same", "worse"], "abc"
    )
    assert len(table) == 3 * (1 + 3 + 2)
    rows = table.set_index(["ablation", "scope", "name"])
    for name, predicted in (("none", base), ("same", base), ("worse", after)):
        right = predicted == truth
        assert rows.loc[name, "all", "all"].accuracy == right.mean()
        assert rows.loc[name, "class", "b"].accuracy == right[truth == 1].mean()
        night = np.array(groups) == "night"
        assert rows.loc[name, "group", "night"].accuracy == right[night].mean()
        assert rows.loc[name, "group", "night"].n == night.sum()
    worse = rows.loc["worse", "all", "all"]
    assert worse.change == pytest.approx((after == truth).mean() - (base == truth).mean())
    same = rows.loc["same", "all", "all"]
    assert same.change == same.change_low == same.change_high == 0
    # The normal approximation of the binomial's interval.
    half = 1.96 * np.sqrt(worse.accuracy * (1 - worse.accuracy) / 600)
    assert worse.low == pytest.approx(worse.accuracy - half, abs=0.01)
    assert worse.high == pytest.approx(worse.accuracy + half, abs=0.01)


def test_a_baseline_at_chance_is_said_loudly_and_no_images_are_refused() -> None:
    truth = np.arange(200) % 4
    with pytest.warns(ChanceWarning, match=r"guessing among 4 classes gets 25\.0%"):
        accuracy_table(count(np.zeros((1, 200), int), truth, 4), [], "abcd")
    with pytest.raises(ValueError, match="no images to classify"):
        accuracy_table(count(np.zeros((1, 0), int), truth[:0], 4), [], "abcd")


def predictions(images: int, ablations: int) -> np.ndarray:
    return np.random.default_rng(images).integers(0, 5, (1 + ablations, images))


def test_counts_of_parts_are_those_of_the_whole() -> None:
    """However images are split, and whichever classes and groups a part happens to have."""
    predicted, truth = predictions(200, 3), np.sort(np.random.default_rng(1).integers(0, 4, 200))
    groups = [f"g{i // 60}" for i in range(200)]
    whole = count(predicted, truth, 5, groups)
    for ends in ([200], [1, 200], [7, 7, 130, 200]):
        starts = [0, *ends[:-1]]
        parts = [
            count(predicted[:, a:b], truth[a:b], 5, groups[a:b])
            for a, b in zip(starts, ends, strict=True)
        ]
        merged = reduce(add, parts)
        np.testing.assert_array_equal(merged.classes, whole.classes)
        assert merged.groups.keys() == whole.groups.keys()
        for name, counts in whole.groups.items():
            np.testing.assert_array_equal(merged.groups[name], counts)
    joined = join([count(predicted[rows], truth, 5, groups) for rows in ([0, 1], [0, 2, 3])])
    np.testing.assert_array_equal(joined.classes, whole.classes)
    for name, counts in whole.groups.items():
        np.testing.assert_array_equal(joined.groups[name], counts)


def test_what_a_study_holds_does_not_grow_with_the_images() -> None:
    def held(images: int) -> int:
        truth = np.arange(images) % 5
        return len(pickle.dumps(count(predictions(images, 9), truth, 5, ["g"] * images)))

    assert held(50_000) == held(500)


def test_tables_are_those_of_predictions_kept_image_by_image() -> None:
    """Intervals to the last bit: counted as they were from all predictions at once."""
    predicted, truth = predictions(300, 2), np.random.default_rng(3).integers(0, 4, 300)
    groups = np.random.default_rng(4).choice(["b", "a"], 300)
    right = predicted == truth
    cells = [np.ones(300, bool), *(truth == c for c in range(4)), groups == "a", groups == "b"]
    rng, rows = np.random.default_rng(0), []
    for after in right:
        kinds = (2 * right[0] + after)[:, None] == np.arange(4)
        counts = np.stack(cells).astype(np.int64) @ kinds
        n = counts.sum(1)
        drawn = rng.multinomial(n, counts / n[:, None], size=(1000, len(n)))
        low, high = np.quantile(drawn @ np.array([0, 1, 0, 1]) / n, [0.025, 0.975], axis=0)
        changes = drawn @ np.array([0, 1, -1, 0]) / n
        rows.append(np.stack([low, high, *np.quantile(changes, [0.025, 0.975], axis=0)], 1))
    with pytest.warns(ChanceWarning):
        found = accuracy_table(count(predicted, truth, 5, groups.tolist()), ["x", "y"], "abcde")
    columns = ["low", "high", "change_low", "change_high"]
    np.testing.assert_array_equal(found[columns].to_numpy(), np.concatenate(rows))
