"""Where the embedded world's models are kept, and their cards: digest, makers and figures."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def card_of(weights: Path) -> Path:
    """Where the card of a weights file is."""
    return weights.with_suffix(".card.json")
