"""What edits bring to groups, counted by hand."""

import numpy as np
import pytest

from pipeline.repair import accuracy
from pipeline.repair.finding import counted, repair
from pipeline.repair.groups import drawn
from pipeline.stats.reductions import reduce_store
from tests.pipeline.repair import kit

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return kit.leaning_store(tmp_path_factory.mktemp("leaning"))


def test_accuracies_are_those_of_held_out_images_counted_one_by_one(store):
    groups = counted(store, kit.ASKED, search=False)
    found = repair(store, kit.ASKED, groups, kit.READOUT, reduce_store(store), [kit.LEANS]).accuracy
    heads = store.heads(*kit.LEANS).values.astype(float)
    embedding = store.embeddings().values.astype(float)
    norm = np.linalg.norm(embedding, axis=1)[:, None]
    ok = np.isfinite(norm[:, 0])
    without = (embedding - heads) / norm + (heads / norm)[ok].mean(0)
    rows = store.images().to_pylist()
    held_out, _ = drawn([row["key"] for row in rows])
    for edit, rated in (("none", embedding), ("chosen", without)):
        right: dict[str, list[bool]] = {}
        for image in np.flatnonzero(held_out & ok):
            own = kit.CLASSES.index[rows[image]["label"]]
            told = int(rated[image, 1] > rated[image, 0]) == own
            for cell in ("all", f"{rows[image]['label']}, {rows[image]['place']}"):
                right.setdefault(cell, []).append(told)
        of = found[(found["edit"] == edit) & found["scope"].isin(["all", "group"])]
        assert dict(zip(of["name"], of["n"], strict=True)) == {k: len(v) for k, v in right.items()}
        for name, share in zip(of["name"], of["accuracy"], strict=True):
            assert share == pytest.approx(np.mean(right[name]))
        worst = found[(found["edit"] == edit) & (found["scope"] == "worst")].iloc[0]
        assert worst["accuracy"] == of.loc[of["scope"] == "group", "accuracy"].min()
        assert worst["low"] <= worst["accuracy"] <= worst["high"] + 1e-9
    edits = found["edit"].unique().tolist()
    assert edits == ["none", "chosen", "published", *(f"random {i}" for i in range(1, 6))]


def test_the_interval_of_the_worst_group_is_of_whichever_is_worst(monkeypatch, store):
    monkeypatch.setattr(accuracy, "RESAMPLES", 4000)
    counts = np.zeros((2, 2, 4), np.int64)
    counts[0, :, 0], counts[0, :, 3] = 50, 50  # before: both groups at half
    counts[1] = [[10, 40, 0, 50], [50, 0, 10, 40]]  # after: 90% and 40%
    groups = {"0 land": counts[:, 0], "1 land": counts[:, 1]}
    of = accuracy.Outcomes(counts, groups)
    names = {(0, "land"): "duck, land", (1, "land"): "wren, land"}
    found = accuracy.table(of, ["chosen"], kit.CLASSES, names)
    before, after = found[found["scope"] == "worst"].to_dict("records")
    # The least of two draws around a half is below it on average.
    assert before["high"] < 0.57
    assert before["low"] == pytest.approx(0.40, abs=0.03)
    assert after["name"] == "wren, land"
    assert after["class"] == "wren"
    assert after["change"] == pytest.approx(-0.1)
    assert after["change_low"] < -0.1 < after["change_high"]
