"""Labels' figures by plain loops, straight from their definitions."""

import numpy as np


def plain_shares(contributions_me: np.ndarray, texts_me: np.ndarray, rounds: int = 5) -> float:
    """Variance that a few of the texts explain, picked one by one from the data themselves."""
    data = contributions_me - contributions_me.mean(0)
    total = (data**2).sum()
    _, values, span = np.linalg.svd(data, full_matrices=False)
    texts = texts_me @ span[values > 1e-6 * values[0]].T  # in the head's span
    data = data @ span[values > 1e-6 * values[0]].T
    found = 0.0
    for _ in range(rounds):
        best, direction = 0.0, None
        for text in texts:
            length = np.linalg.norm(text)
            if length > 1e-5:
                gain = ((data @ text / length) ** 2).sum()
                if gain > best:
                    best, direction = gain, text / length
        if direction is None:
            break
        found += best
        data = data - np.outer(data @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
    return found / total


def plain_scores(labels, fitting) -> dict[str, float]:
    """Entanglement, association and heads at each number of texts, counted one by one."""
    shared, enough = 0, 0
    for i, label in enumerate(labels):
        if label is not None and any(j != i and other == label for j, other in enumerate(labels)):
            shared += 1
        if fitting[i] >= 3:
            enough += 1
    at = {n: sum(f == n for f in fitting) / len(fitting) for n in range(6)}
    return {"entanglement": shared / len(labels), "association": enough / len(labels), **at}


def plain_overlap(a_re: np.ndarray, b_re: np.ndarray) -> float:
    """Trace of the product of two projectors over the smaller rank, written out."""
    p, q = a_re.T @ a_re, b_re.T @ b_re
    smaller = min(np.linalg.matrix_rank(p), np.linalg.matrix_rank(q))
    return float(np.trace(p @ q) / smaller) if smaller else 0.0
