"""What sections say first, held against tables that are known."""

import numpy as np
import pandas as pd
import pytest

from pipeline.heads.shares import Shares
from pipeline.neurons.answers import picked
from pipeline.pages import notes, sentences
from pipeline.pages.heads import ablation_section, losses_of
from pipeline.pages.html import Made
from tests.pipeline.pages.tables import ablations, row


def test_what_wrote_the_embedding():
    heads, mlps = np.array([[0.1, 0.2], [0.3, 0.05]]), np.array([0.05, 0.25, 0.02])
    said = sentences.written(Shares(heads, mlps, 0.03, 10), 40)
    assert "heads wrote 65.0% of the embedding, start and MLPs 32.0%, constants 3.0%" in said
    assert "over 10 of 40 images" in said
    assert "layer 1, head 0 wrote most (30.0%)" in said
    assert "the MLP of layer 0 (25.0%)" in said


def test_how_far_texts_describe_heads():
    table = pd.DataFrame(
        [
            {"layer": 1, "head": head, "rank": rank, "text": "t", "cumulative": share * (rank + 1)}
            for head, share in enumerate((0.1, 0.03, 0.15))
            for rank in range(6)
        ]
    )
    said = sentences.described(table, 40, head_dim=32)
    assert "explain 50% of what it writes (median of 3 heads, over 40 images" in said
    assert "5 random directions: 16%" in said
    assert "most of layer 1, head 2 (75%) and least of layer 1, head 1 (15%)" in said
    (warned,) = notes.little(sentences.explained(table), head_dim=32)
    assert "5 texts of 1 of 3 heads explain less than 31%" in warned
    assert not notes.little(sentences.explained(table), head_dim=64)[1:]


def test_random_directions_explain_as_much_as_is_said():
    rng, dims = np.random.default_rng(0), 16
    spread = rng.normal(size=(dims, dims))
    covariance = spread @ spread.T
    shares = []
    for _ in range(400):
        basis, _ = np.linalg.qr(rng.normal(size=(dims, sentences.TOP)))
        shares.append(np.trace(basis.T @ covariance @ basis) / np.trace(covariance))
    assert np.mean(shares) == pytest.approx(sentences.by_chance(dims), abs=0.02)


def test_single_heads_are_counted_by_what_their_intervals_say():
    table = ablations(
        row("heads", "0.0", -0.10, 0.02), row("heads", "0.1", -0.01, 0.02),
        row("heads", "1.0", 0.05, 0.02), row("heads", "1.1", 0.0, 0.0),
    )  # fmt: skip
    said = section_of("heads", table).found
    assert "Of 100 images 60.0% (95%: 50.0% to 70.0%)" in said
    assert "guessing among 4 classes gives 25.0%" in said
    assert "Of 4 heads, 1 cost accuracy when they are replaced, 1 raise it, and 2 show no" in said
    assert "layer 0, head 0 costs most: −10.0 points (95%: −12.0 to −8.0)" in said
    assert losses_of(table) == {
        (0, 0): "−10.0", (0, 1): "none shown", (1, 0): "+5.0", (1, 1): "none shown"
    }  # fmt: skip


def section_of(study, table, classes=4):
    return ablation_section(study, table, classes, [], [], Made("facet"))


def test_a_change_inside_its_interval_is_none():
    said = section_of("mlps", ablations(row("mlps", "", -0.01, 0.03))).found
    assert "no change that this many images could show (−1.0 points, 95%: −4.0 to +2.0)" in said


def test_layers_are_counted_from_below_until_one_costs():
    rows = [row("layers", str(i), c, 0.02, "layers 0 to l") for i, c in enumerate((0, 0.01, -0.2))]
    rows += [row("layers", str(i), c, 0.02, "layer l alone") for i, c in enumerate((0, 0, -0.3))]
    said = section_of("layers", ablations(*rows)).found
    assert "the attention of layer 2 costs most: −30.0 points" in said
    assert "the first 2 layers together cost nothing that this many images could show" in said
    assert "all layers −20.0 points" in said


def test_chosen_heads_are_written_as_everywhere_also_from_older_tables():
    chosen = row("chosen", "", -0.2, 0.02, "chosen") | {"ablation": "heads 3.0 3.2 1.1"}
    random = [row("chosen", str(i), i / 100, 0.02, "random heads") for i in range(3)]
    found = section_of("chosen", ablations(chosen, *random))
    assert "Without layer 1, head 1; layer 3, heads 0 and 2: −20.0 points" in found.found
    assert "3 draws: +0.0 to +2.0 points" in found.found
    assert found.rows[1][0] == "layer 1, head 1; layer 3, heads 0 and 2"
    groups = [
        {**row("", "", change, 0.1), "ablation": of, "scope": "group", "name": name}
        for of, changes in (
            ("none", (0.0, -0.4)),
            ("heads 3.0 3.2 1.1", (-0.3, 0.2)),
            *((one["ablation"], (0.0, 0.0)) for one in random),
        )
        for name, change in zip(("star/sea", "star/snow"), changes, strict=True)
    ]
    table = pd.concat([ablations(chosen, *random), pd.DataFrame(groups)])
    said = section_of("chosen", table).found
    assert "Of 2 groups star/snow fares worst, 20.0% (95%: 10.0% to 30.0%) of 100 images" in said
    assert "without these heads it is 80.0% (95%: 70.0% to 90.0%), and the worst" in said
    assert "worst of all is then 30.0%" in said


def test_at_chance_ablations_say_nothing():
    table = ablations(row("mlps", "", -0.01, 0.03))
    assert not section_of("mlps", table, classes=4).notes
    (warned,) = section_of("mlps", table, classes=2).notes  # from 50%: the interval's lower end
    assert "at chance" in warned
    assert "These ablations say nothing" in warned


def neurons(strength):
    return pd.DataFrame(
        {"neuron": range(len(strength)), "norm_max": strength, "norm_large": strength}
    )


def test_shown_neurons_are_the_best_the_worst_and_a_variety():
    directions = np.eye(8)[[0, 0, 1, 2, 3, 4, 5, 6]].astype(float)
    table = neurons([9.0, 8.0, 7.0, 6.0, 0.1, 0.1, 0.1, 0.0])
    codes = pd.DataFrame({"neuron": [0, 3], "rank": 0, "text": ["a", "a"], "coefficient": 1.0})
    found = picked(table, directions, codes, pd.Series(dtype=float), ("", ""), 9)
    # 1 lies along 0, so that 2 comes before it; 3 is said as 0 is; the weak half is left out.
    assert [p.neuron for p in found] == [0, 2, 1]
    quality = pd.Series({0: 0.5, 1: 0.9, 2: 0.7, 3: 0.2, 4: 1.0})
    found = picked(table, directions, codes, quality, ("best", "worst"), 3)
    assert [(p.neuron, p.why) for p in found[:2]] == [(1, "best"), (3, "worst")]
    assert found[2].neuron == 2


def test_which_method_agrees_best_with_masks():
    def said(method: str, change: float, around: float) -> str:
        values = {
            "gradcam": 0.4,
            "tokens all": 0.6,
            "raw-attention": 0.5,
            "rollout": 0.6 + change,
            "random": 0.3,
        }
        methods = pd.DataFrame(
            [
                {"method": m, "protocol": "aligned", "images": 900, "map": 0.7 + (m == method),
                 **{f"{f}{end}": v + by for f in ("miou",)
                    for end, by in (("", 0), ("_low", -0.01), ("_high", 0.01))},
                 "map_low": 0.7, "map_high": 0.8}
                for m, v in values.items()
            ]
        )  # fmt: skip
        differences = pd.DataFrame(
            [
                {"method": m, "figure": "miou", "against": "tokens all", "change": v - 0.6,
                 "change_low": v - 0.6 - around, "change_high": v - 0.6 + around}
                for m, v in values.items() if m != "tokens all"
            ]
        )  # fmt: skip
        return sentences.found_best(methods, differences)

    clear = said("tokens all", -0.05, 0.02)
    assert "over 900 images, tokens all has the best mIoU: 60.0% (95%: 59.0% to 61.0%)" in clear
    assert "next is rollout, −5.0 points (95%: −7.0 to −3.0); gradcam, −20.0 points" in clear
    assert "; raw-attention, −10.0 points" in clear
    assert "drawn at random get 30.0%. By mAP it is first, too" in clear
    unsure = said("rollout", -0.01, 0.02)
    assert "next is rollout, with no difference that this many images could show (−1.0" in unsure
    assert "By mAP rollout is first" in unsure
