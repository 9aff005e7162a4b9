"""Descriptions as a stage leaves them, of which pictures are drawn."""

import pandas as pd


def described(*texts: str, source: str = "random", repeat: int = 0) -> pd.DataFrame:
    rows = [
        {"source": source, "repeat": repeat, "number": at, "text": text, "chosen": True}
        for at, text in enumerate(texts)
    ]
    return pd.DataFrame(rows)
