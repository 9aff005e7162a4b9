"""Tables of ablations that are made up."""

import pandas as pd


def row(study: str, at: str, change: float, around: float, series: str = "") -> dict:
    """Over all images: a change with its interval."""
    return {
        "study": study, "series": series, "at": at, "ablation": f"{study} {series} {at}",
        "scope": "all", "name": "all", "n": 100, "accuracy": 0.6 + change,
        "low": 0.5 + change, "high": 0.7 + change, "change": change,
        "change_low": change - around, "change_high": change + around,
    }  # fmt: skip


def ablations(*rows: dict) -> pd.DataFrame:
    """The table of a study, with the accuracy of 60% with nothing ablated."""
    none = row("none", "", 0.0, 0.0) | {"ablation": "none"}
    return pd.DataFrame([none, *rows])
