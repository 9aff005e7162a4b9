"""A list of properties as the judge, on planted heads and texts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.by_lexicon import Properties, _shares_of_head
from pipeline.labels.examples import load_examples
from pipeline.labels.lexicon import Lexicon, load_lexicon
from pipeline.texts.classes import PoolError
from tests.pipeline.labels.plain_labels import plain_shares


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(5, 8), st.integers(2, 9))
def test_shares_of_a_property_are_those_picked_from_the_data(seed, dims, embed, texts):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(30, dims)) * rng.uniform(0.2, 2, dims)
    head_map = rng.normal(size=(dims, embed))
    rows = rng.normal(size=(texts, embed))
    covariance = np.cov(u.T, bias=True).reshape(dims, dims)
    (found,) = _shares_of_head([rows], (covariance[None], head_map[None]))
    assert found == pytest.approx(plain_shares(u @ head_map, rows), rel=1e-6)


def test_a_head_is_about_the_property_that_it_varies_along():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    common = 5 * axes[19]  # what all texts share tells nothing
    lists = {"colours": axes[:4], "shapes": axes[4:8], "many": axes[8:19]}
    lexicon = Lexicon("l", {n: tuple(f"{n} {i}" for i in range(len(r))) for n, r in lists.items()})
    properties = Properties.of(lexicon, np.concatenate([r + common for r in lists.values()]))
    centre = sum(rows.mean(0) for rows in lists.values()) / 3
    for rows, found in zip(lists.values(), properties.texts, strict=True):
        np.testing.assert_allclose(found, rows - centre, atol=1e-12)
    u = rng.normal(size=(400, 20)) * 0.3
    u[:, 4:8] += rng.normal(size=(400, 4))  # in axes' coordinates
    u[:, 19] += 3 * rng.normal(size=400)
    covariance = np.cov(u.T)
    shares = _shares_of_head(properties.texts, (covariance[None], axes[None]))
    assert lexicon.names[int(shares.argmax())] == "shapes"
    # Single texts: one property, two at once, and none.
    texts = np.stack([axes[0], axes[0] + 0.95 * axes[5], np.zeros(20)]) + common
    texts[2] = properties.centre
    fits = properties.fitting(texts)
    assert fits.tolist() == [[True, False, False], [True, True, False], [False] * 3]


def test_lists_that_come_with_the_code():
    photographs = load_lexicon("photographs")
    sizes = {len(texts) for texts in photographs.properties.values()}
    assert len(sizes) == 1, "longer lists have more texts to choose from"
    assert len(photographs.names) >= 20
    assert len(set(photographs.texts)) == len(photographs.texts)
    assert set(load_lexicon("microworld").names) >= {"colour", "shape", "background"}
    examples = load_examples(None)
    assert len(examples) == 5
    assert all(len(e.texts) == 5 and sum(e.fits) >= 3 for e in examples)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a text\n[colours]\n", "a text that stands under no name"),
        (
            b"[colours]\nred\n[shapes]\nring\nring\n",
            r"line 5: 'ring' stands twice under \[shapes\]",
        ),
        (b"[colours]\nred\n[colours]\nblue\n", r"line 3: \[colours\] was there before"),
        (b"[colours]\n[shapes]\nring\n", r"\[colours\] has no texts"),
        (b"[colours]\nred\n", "has 1 properties"),
        (b"", "has 0 properties"),
        (b"\xff\xfe[\x00c\x00", "not UTF-8|no name"),
    ],
)
def test_a_list_that_cannot_be_meant(content, told, tmp_path):
    file = tmp_path / "lexicon.txt"
    file.write_bytes(content)
    with pytest.raises(PoolError, match=told):
        load_lexicon(file)


def test_texts_stay_as_they_were_written(tmp_path):
    file = tmp_path / "lexicon.txt"
    file.write_text("[Hue]\n  a red thing: bright = 100%\nÉté\n\n# said to nobody\n[b]\nx\n")
    found = load_lexicon(file)
    assert found.properties == {"Hue": ("a red thing: bright = 100%", "Été"), "b": ("x",)}
    examples = tmp_path / "examples.txt"
    examples.write_text("[Hue]\na red thing\n- a bell\n-5 degrees\n")
    (example,) = load_examples(examples)
    assert example.texts == ("a red thing", "a bell", "-5 degrees")
    assert example.fits == (True, False, True)
    with pytest.raises(PoolError, match="there is no such file"):
        load_examples(tmp_path / "gone.txt")
