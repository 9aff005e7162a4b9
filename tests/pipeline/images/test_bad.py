"""Bad images are counted by kind, and the first of each kind are named."""

from pipeline.images.bad import NAMED, BadImages
from pipeline.images.errors import BadImage


def test_one_kind_is_counted_together_whatever_the_images() -> None:
    keys = [f"t/{i}" for i in range(6)]
    reasons = [
        *(str(BadImage("HTTP 403", f"http://host/{i}.jpg")) for i in range(4)),
        None,
        str(BadImage("the file is empty")),
    ]
    bad = BadImages.of(keys, reasons)
    assert bad.facts()["bad"] == {"HTTP 403": 4, "the file is empty": 1}
    names = ", ".join(f"t/{i}: http://host/{i}.jpg" for i in range(NAMED))
    assert bad.rows() == {
        "  bad: HTTP 403": f"4 ({names}, …)",
        "  bad: the file is empty": "1 (t/5)",
    }
    assert bad.lines() == f"  4 × HTTP 403 ({names}, …)\n  1 × the file is empty (t/5)"


def test_shards_are_added_up_and_few_images_named() -> None:
    total = BadImages()
    for shard in range(3):
        keys = [f"{shard}/{i}" for i in range(2)]
        total.add(BadImages.of(keys, ["cut: a", "cut: b"]).facts())
    total.add(BadImages.of(["ok"], [None]).facts())
    assert (total.total(), dict(total.counts)) == (6, {"cut": 6})
    assert total.named == {"cut": ["0/0: a", "0/1: b", "1/0: a"]}


def test_parts_from_before_kinds_were_kept() -> None:
    total = BadImages()
    total.add({"bad": {"truncated or damaged: broken stream": 2, "truncated or damaged: x": 1}})
    total.add({"bad": {"the file is empty": 1}})
    total.add({})
    assert dict(total.counts) == {"truncated or damaged": 3, "the file is empty": 1}
    assert total.named["truncated or damaged"] == ["broken stream", "x"]
