"""Known truth of shared concepts: areas against counting pairs, planted maps, random tuples."""

import numpy as np

from pipeline.microworld.draw import picture
from pipeline.rosetta.truth import LEAST, VALUES, holds, truth_facts, tuples, unit_scores

IMAGES = 60


def world():
    drawn = [picture(5, "test", i) for i in range(IMAGES)]
    return np.array([mask for _, mask, _ in drawn]), holds([scene for *_, scene in drawn])


def counted(scores, labels):
    """The share of pairs in the right order; ties count half."""
    scores = scores.astype(np.float64)
    wins = np.sign(scores[labels][:, None] - scores[~labels][None]) / 2 + 0.5
    return wins.mean()


def test_areas_agree_with_counting_every_pair():
    masks, holds_vb = world()
    maps = np.random.default_rng(0).integers(0, 5, (IMAGES, 4, 4)).astype(np.float32)
    inside, auc = unit_scores(maps, masks, holds_vb)
    covered = masks.reshape(IMAGES, 4, 16, 4, 16).mean((2, 4)) >= 0.5
    np.testing.assert_allclose(inside, counted(maps.ravel(), covered.ravel()), rtol=1e-12)
    seen = 0
    for v, labels in enumerate(holds_vb):
        if min(labels.sum(), (~labels).sum()) < LEAST:
            assert np.isnan(auc[v])
            continue
        best = max(counted(maps.mean((1, 2)), labels), counted(maps.max((1, 2)), labels))
        np.testing.assert_allclose(auc[v], best, rtol=1e-12)
        seen += 1
    assert seen > 20


def test_a_map_equal_to_the_mask_is_right_and_noise_is_chance():
    masks, holds_vb = world()
    assert unit_scores(masks.astype(np.float32), masks, holds_vb)[0] == 1
    assert unit_scores(1 - masks.astype(np.float32), masks, holds_vb)[0] == 0
    noise = np.random.default_rng(1).normal(size=masks.shape).astype(np.float32)
    assert abs(unit_scores(noise, masks, holds_vb)[0] - 0.5) < 0.01


def test_a_planted_value_is_the_role_and_only_alike_units_agree():
    masks, holds_vb = world()
    night = VALUES.index(("background", "night"))
    red = VALUES.index(("colour", "red"))
    planted = {
        v: unit_scores(np.ones((IMAGES, 2, 2), np.float32) * holds_vb[v][:, None, None], masks,
                       holds_vb)[1]
        for v in (night, red)
    }  # fmt: skip
    assert planted[night][night] == 1
    auc_mvn = np.stack(
        [np.stack([planted[night], planted[night]], 1), np.stack([planted[night], planted[red]], 1)]
    )
    table = tuples(np.array([[0.9, 0.9], [0.8, 0.1]]), auc_mvn)
    assert table["agrees"].tolist() == [True, False]
    assert (table["attribute"][0], table["value"][0], table["auc"][0]) == ("background", "night", 1)
    np.testing.assert_allclose(table["inside_gap"], [0.1, 0.8])
    table["pairing"] = ["shared", "random"]
    facts = truth_facts(table)
    assert "100%" in facts["shared units"]
    assert "agree on one value 0%" in facts["random units"]
