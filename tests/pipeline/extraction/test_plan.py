import pytest

from pipeline.extraction.plan import parse_layers, project
from tests.storage import stores

LARGE = stores.metadata(
    components=("heads", "mlps"), store_dtype="float16", images=50_000, shard_size=1024,
    layers=24, heads=16, head_dim=64, width=1024, mlp_width=4096, embed=768, tokens=257,
    grid=(16, 16),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", tuple(range(12))),
        ("last:4", (8, 9, 10, 11)),
        ("last:13", tuple(range(12))),
        ("3", (3,)),
        ("8-10", (8, 9, 10)),
        ("1,3,last:1", (1, 3, 11)),
    ],
)
def test_layers_that_can_be_named(text, layers):
    assert parse_layers(text, 12) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12", r"`layers` 12: the model's layers are 0-11"),
        ("5-3", "0-11"),
        ("last:0", "the model has 12 layers"),
        ("first", "write all, last:4, 20-23 or 1,3"),
        ("", "write all"),
    ],
)
def test_layers_that_cannot(text, message):
    with pytest.raises(ValueError, match=message):
        parse_layers(text, 12)


def test_bytes_are_those_of_the_arrays():
    plan = project(LARGE, batch_size=64, image_side=224, parameters=428_000_000)
    heads, mlps = 24 * 16 * 64 * 2, 25 * 1024 * 2
    assert heads + mlps + 768 * 4 <= plan.per_image <= heads + mlps + 768 * 4 + 64
    assert plan.store == 50_000 * plan.per_image
    assert plan.decoded == 2 * 1024 * 224 * 224 * 3


def test_memory_does_not_grow_with_the_number_of_images():
    more = stores.metadata(**{**LARGE.to_json(), "images": 400_000_000})
    options = dict(batch_size=64, image_side=224, parameters=428_000_000)
    assert project(more, **options).actor == project(LARGE, **options).actor


def test_shards_of_four_hundred_million_images_are_counted_not_listed():
    more = stores.metadata(**{**LARGE.to_json(), "images": 400_000_000, "shard_size": 4096})
    assert more.shards == 97_657
    assert more.rows(97_656) == (97_656 * 4096, 400_000_000)
