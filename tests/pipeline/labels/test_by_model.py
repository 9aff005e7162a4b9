"""What language models are asked, and how their answers are read."""

import pytest

from pipeline.labels.by_model import judge_heads, read_fits, read_label
from pipeline.labels.examples import load_examples


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("label: colours", "colours"),
        ("Label:  Cities and  Countries.\n", "cities and countries"),
        ("<think>label: one\nor two</think>\n**label:** `animals`", "animals"),
        ("I would say colours", None),
        ("label:", None),
        ("label: PROPERTY", None),
        ("label: ?!", None),
        ("label: " + "very " * 20, None),
        ("", None),
    ],
)
def test_labels_are_read_from_their_line(answer, label):
    assert read_label(answer) == label


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ("fits: 1, 3", (True, False, True)),
        ("fits: 2 and 3", (False, True, True)),
        ("Fits: none.", (False, False, False)),
        ("fits: 1 2 3", (True, True, True)),
        ("fits: 4", None),
        ("fits: 0", None),
        ("fits: all", None),
        ("fits:", None),
        ("1, 3", None),
        ("fits: not 2", None),
    ],
)
def test_texts_that_fit_are_read_from_their_line(answer, fits):
    assert read_fits(answer, 3) == fits


def test_what_is_asked(tmp_path):
    asked = []

    def ask(messages):
        asked.append(list(messages))
        return "fits: 2" if messages[-1]["content"].startswith("property") else "label: colours"

    texts = {(0, 1): ["a", "b"], (1, 0): []}
    found = judge_heads(ask, texts, load_examples(None), ["colours", "rare"], 2, str(tmp_path))
    assert found[(0, 1)].label == "colours"
    assert found[(0, 1)].fits == (False, True)
    assert not found[(0, 1)].unread
    assert found[(1, 0)].label is None  # a head without texts is not asked about
    first, second = asked
    assert "colours, rare" in first[0]["content"]
    assert first[2] == {"role": "assistant", "content": "label: colours"}
    assert len(first) == len(second) == 12  # what is wanted, five pairs, the question
    assert first[-1]["content"] == "1. a\n2. b"
    assert second[-1]["content"] == "property: colours\n1. a\n2. b"
    assert second[2] == {"role": "assistant", "content": "fits: 1, 2, 3, 4"}
