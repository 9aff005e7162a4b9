"""The largest of every row equal a plain sort, however the columns are cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stats.top import merge_top, top


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 12), st.integers(0, 9), st.data())
def test_any_cut_gives_what_sorting_gives(rows, columns, k, seed, data):
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (rows, columns)).astype(float)  # many ties
    values[rng.random(values.shape) < 0.2] = -np.inf  # never found
    numbers = np.cumsum(rng.integers(1, 4, columns))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, columns - 1)), max_size=4)))
    runs = [r for r in np.split(np.arange(columns), cuts) if len(r)]
    found = merge_top([top(values[:, run], k, numbers[run]) for run in runs], k)
    for row in range(rows):
        sure = [(-v, n) for v, n in zip(values[row], numbers, strict=True) if v > -np.inf]
        expected = [(n, -v) for v, n in sorted(sure)[:k]]
        held = found.index[row] >= 0
        got = list(zip(found.index[row][held], found.value[row][held], strict=True))
        assert got == expected
