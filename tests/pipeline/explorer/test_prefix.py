"""What pages call the tokens before the patches."""

import pytest

from pipeline.explorer.library import Opened
from tests.storage import stores


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the class token"),
        ({"prefix": 5, "tokens": 8}, "the class token, registers"),
        ({"prefix": 0, "tokens": 3, "reading": "mean"}, ""),
        # CoCa's class token stands in the trunk; a ResNet's pool begins with the mean.
        (
            {"reading": "attention-pool", "layers": 1, "trunk_layers": 2, "trunk_mlp_width": 8},
            "the class token",
        ),
        ({"reading": "attention-pool", "layers": 1}, "the mean token"),
    ],
)
def test_the_prefix_is_what_the_model_has(changes, said, monkeypatch):
    one_layer = {"token_layers": (0,)} if "layers" in changes else {}
    monkeypatch.setattr(Opened, "meta", stores.metadata(**changes | one_layer))
    assert Opened.__new__(Opened).prefix == said
