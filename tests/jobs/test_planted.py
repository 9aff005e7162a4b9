"""The embedded world carries the published finding: without background heads the worst group is
told apart."""

import json

import numpy as np
import pytest

from jobs import extract, label, repair
from pipeline.microworld.cards import WEIGHTS
from pipeline.pages.planted import AGAINST, PLANTED_AT_LEAST

IMAGES = "microworld:n=1200,seed=7,split=test"


@pytest.mark.usefixtures("here")
def test_without_the_heads_labelled_background_the_worst_group_is_told_apart(tmp_path):
    url = str(tmp_path / "store")
    extract.main(
        extract.ExtractConfig(
            images=IMAGES, model="microworld", pretrained="microworld", store=url, shard_size=500
        )
    )
    label.main(label.LabelConfig(store=url, layers="all"))
    found = repair.main(
        repair.RepairConfig(
            store=url,
            classes="microworld:shape=star,heart",
            groups="background",
            where='label in ("star", "heart")',
            property="background",
        )
    ).found.accuracy
    worst = found[found["scope"] == "worst"].set_index("edit")["accuracy"]
    assert 0.05 <= worst["none"] <= 0.4
    assert worst["chosen"] - worst["none"] >= 0.2
    random = worst[worst.index.str.startswith("random")]
    assert len(random) == 5
    assert worst["chosen"] > random.max()  # by some 0.1, where groups are larger
    plain = found[(found["scope"] == "group") & (found["edit"] == "none")]
    assert plain["name"].iloc[int(np.argmin(plain["accuracy"]))] == AGAINST.replace("/", ", ")


def test_the_page_says_the_least_rate_of_the_card():
    runs = json.loads((WEIGHTS / "clip.card.json").read_text())["made_by"]
    assert min(run["config"]["planted_rate"] for run in runs) == PLANTED_AT_LEAST
