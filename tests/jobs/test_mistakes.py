"""What people do wrong, as they type it: one line says what is right, and nothing is lost."""

import io
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from jobs import extract
from pipeline.models import ModelSpec, load_model
from tests import tiny
from tests.jobs import typed

# What every mistake is told without.
NONE_OF = ("torch", "ray", "xarray", "zarr")
EXTRACT = "extract --model {tiny} --pretrained none --store new"
SEGMENT = "segment --store {store} --classes microworld:shape "
WITH = "extract --model {tiny} --images {photos} --store new --workers here --pretrained "


@dataclass(frozen=True)
class Mistake:
    """A command, with places of ``world`` in braces, and what is said of it.

    ``light`` is whether it is told before any library that takes seconds is loaded; ``lines`` how
    many it takes.
    """

    command: str
    said: str
    light: bool = True
    environment: Mapping[str, str | None] = field(default_factory=dict)
    nobody: bool = False
    lines: int = 1


MISTAKES = {
    "no such job": Mistake(
        "extrct --store {store}", "there is no job 'extrct'. Did you mean 'extract'?"
    ),
    "images and store swapped": Mistake(
        "extract --images {store} --model {tiny} --pretrained none --store {photos}",
        "{store} is a store, which holds no pictures: name the folder, tars or Parquet files",
    ),
    "images that are not there": Mistake(
        EXTRACT + " --images {root}/phtos", "{root}/phtos. Check the spelling"
    ),
    "a file for a folder": Mistake(
        EXTRACT + " --images {notes}",
        "{notes} is neither a folder, .tar, .parquet, .csv nor an image",
    ),
    "an empty folder": Mistake(
        EXTRACT + " --images {empty}", "{empty} is an empty folder: there is no image to list"
    ),
    "a folder of other things": Mistake(
        EXTRACT + " --images {texts}", "No image in {texts}. Left out: 1 x not an image file"
    ),
    "Parquet without images": Mistake(
        EXTRACT + " --images {numbers}", "{numbers} has no image column. Its columns: n (int64)"
    ),
    "a tar for a store": Mistake(
        "extract --model {tiny} --pretrained none --images {photos} --store {tar}",
        "{tar} is a file: give --store a folder",
    ),
    "a model that is none": Mistake(
        "extract --model ViT-B-23 --pretrained openai --images {photos} --store new",
        "ViT-B-23",
    ),
    "a tag that is none": Mistake(
        "extract --model ViT-B-32 --pretrained opnai --images {photos} --store new", "opnai"
    ),
    "layers past the last": Mistake(
        EXTRACT + " --images {photos} --components tokens --layers 99", "--layers 99"
    ),
    "a negative number": Mistake(
        EXTRACT + " --images {photos} --shard-size=-5", "--shard-size -5: must be at least 1"
    ),
    "no actors": Mistake(
        EXTRACT + " --images {photos} --num-actors 0", "--num-actors 0: must be at least 1"
    ),
    "no number": Mistake(
        EXTRACT + " --images {photos} --max-bad nan", "--max-bad nan: must be a finite number"
    ),
    "a GPU that is not there": Mistake(
        EXTRACT + " --images {photos} --device cuda",
        "--device cuda: this machine has no GPU; use --device cpu or auto",
        light=False,  # torch alone knows
    ),
    "another shard size than the store's": Mistake(
        "extract --model {tiny} --pretrained none --images {source} --store {store} --shard-size 5",
        "shard_size: the store has 6, this run asks for 5",
    ),
    "a store on the web": Mistake(
        "extract --model {tiny} --pretrained none --images {photos} --store https://host/store",
        "https://host/store can only be read: give --store a local path",
    ),
    "a store at another kind of URL": Mistake(
        "reduce --store s4://bucket/store", "s4://bucket/store"
    ),
    "no store": Mistake("reduce --store {photos}", "no store at {photos}: run `facet extract"),
    "status of no store": Mistake(
        "status --store {root}/nothing", "no store at {root}/nothing", light=False
    ),
    "a store of a newer Facet": Mistake(
        "reduce --store {newer}", "has schema version 99; this Facet reads versions 1 to 4"
    ),
    "a store half copied": Mistake(
        "reduce --store {half}", "no shard of {half} is finished: run `facet extract"
    ),
    "metadata that is no JSON": Mistake(
        "reduce --store {broken}", "{broken}/contributions.zarr/zarr.json is damaged"
    ),
    "a pool that is none": Mistake("textspan --store {store} --pool genral", "genral"),
    "heads that are not there": Mistake(
        "ablate --store {store} --classes microworld:shape --study chosen --heads 9.0",
        "--heads 9.0: the model has layers 0-3",
    ),
    "one class": Mistake("ablate --store {store} --classes {one}", "{one} has one class"),
    "labels that are no class": Mistake(
        "ablate --store {store} --classes microworld:colour --label-column shape",
        "labels are no class of this set",
    ),
    "a column of labels that is none": Mistake(
        "ablate --store {store} --classes microworld:shape --label-column shap", "no column 'shap'"
    ),
    "a condition on no column": Mistake(
        "reduce --store {store} --where \"shap == 'star'\"",
        "--where \"shap == 'star'\": the image table has no column 'shap' (did you mean 'shape'?)",
    ),
    "a condition that is none": Mistake(
        "textspan --store {store} --pool microworld --where \"shape = 'star'\"", "cannot be read"
    ),
    "a reference that is none": Mistake(
        'ablate --store {store} --classes microworld:shape --reference "label = 1"',
        "--reference 'label = 1' cannot be read",
    ),
    "a condition that no image meets": Mistake(
        "reduce --store {store} --where \"shape == 'sun'\"", "matches no image of the 12"
    ),
    "more top images than images": Mistake(
        "second-order --store {store} --mlp-layers 0 --top-k 100", "only 12 images are ok"
    ),
    "no directions yet": Mistake(
        "omp --store {store} --mlp-layers 0 --pool microworld --terms 4",
        "no second-order effects of MLP layers 0 in {store}: run `facet second-order",
        light=False,
    ),
    "more texts than there are": Mistake(
        "omp --store {store} --mlp-layers 0 --pool {pool}", "has 3 texts, and --terms 128"
    ),
    "an image that is not there": Mistake(
        "heatmap --store {store} --image tset-3/00000002 --text star",
        "--image 'tset-3/00000002': no image of {store} has this key (did you mean "
        "'test-3/00000002'?); by number, its images are 0-11",
    ),
    "a number past the last image": Mistake(
        "heatmap --store {store} --image 12 --text star", "by number, its images are 0-11"
    ),
    "no picture to look at": Mistake(
        "heatmap --store {store} --text star", "give one picture: --image KEY or number, of the"
    ),
    "two pictures to look at": Mistake(
        "heatmap --store {store} --image 0 --picture {photos}/a.png --text star",
        "give one picture",
    ),
    "a picture that is not there": Mistake(
        "heatmap --store {store} --picture {photos}/b.png --text star",
        "--picture {photos}/b.png: there is no such file",
    ),
    "a picture that is none": Mistake(
        "heatmap --store {store} --picture {notes} --text star",
        "--picture {notes} cannot be read: not an image",
    ),
    "nothing to look for": Mistake(
        "heatmap --store {store} --image 0", "say what to look for: --text, or --heads with --pool"
    ),
    "maps of layers past the last": Mistake(
        "heatmap --store {store} --image 0 --text star --layers 4",
        "--layers 4: the model's layers are 0-3",
    ),
    "maps of a head that is none": Mistake(
        "heatmap --store {store} --image 0 --text star --heads 3.9",
        "--heads 3.9: the model has layers 0-3, heads 0-2",
    ),
    "a text that the model would not read": Mistake(
        "heatmap --store {store} --image 0 --text "
        "'one two three four five six seven eight nine ten eleven twelve thirteen fourteen more'",
        "more than the 16 tokens that the model reads: of it would remain 'one two three four five "
        "six seven eight nine ten eleven twelve thirteen fourteen'",
        light=False,  # its tokenizer is open_clip's
    ),
    "a head that no texts describe": Mistake(
        "heatmap --store {store} --image 0 --heads 3.0 --pool microworld",
        "no heads in {store} are described by microworld: run `facet textspan",
        light=False,
    ),
    "masks that are not there": Mistake(
        SEGMENT + "--masks {root}/maks", "masks '{root}/maks': there is no such folder"
    ),
    "masks of other pictures": Mistake(
        SEGMENT + "--masks {photos}", "none of the 12 pictures has a mask in {photos}"
    ),
    "masks of nobody knows where": Mistake(
        "segment --store {of_table} --classes microworld:shape",
        "--masks: nothing says where the masks of the pictures of {table} are",
    ),
    "maps by neurons of which nothing is known": Mistake(
        SEGMENT + "--methods neurons --mlp-layers 1",
        "no second-order effects of MLP layers 1 in {store}: run `facet second-order",
        light=False,
    ),
    "no method": Mistake(SEGMENT + "--methods", "--methods: name at least one"),
    "a method twice": Mistake(
        SEGMENT + "--methods random random", "--methods random random: each once"
    ),
    "maps by heads of other layers": Mistake(
        SEGMENT + "--layers all last:1 --heads 0.1", "--heads 0.1: none is of --layers last:1"
    ),
    "maps by layers past the last": Mistake(
        SEGMENT + "--layers 4", "--layers 4: the model's layers are 0-3"
    ),
    "a protocol that is asked for twice": Mistake(
        SEGMENT + "--protocol aligned aligned", "--protocol aligned aligned: each once"
    ),
    "nothing to show": Mistake(
        "show textspan --store {store}",
        "no results of textspan in {store}: run `facet textspan",
        light=False,
    ),
    "a report of nothing": Mistake(
        "report --store {root}/stor", "no store at {root}/stor: run `facet extract"
    ),
    "nothing to look at": Mistake(
        "explore --store {root}/stor", "no store at {root}/stor: run `facet extract"
    ),
    "a page where this user may not write": Mistake(
        "report --store {store} --out {photos}/page.html",
        "cannot write to {photos}: Permission denied. Choose a --out where",
        nobody=True,
    ),
    "a neuron that is none": Mistake(
        "show neuron --store {store} --layer 0 --neuron 9999",
        "--neuron 9999: MLP layer 0 has neurons 0-191",
    ),
    "a layer without neurons": Mistake(
        "show neuron --store {store} --layer 3 --neuron 0",
        "--layer 3: neurons of MLP layers 0 to 2",
    ),
    "a place that is not ours": Mistake(
        "reduce --store {store}",
        "cannot write to {store}: Permission denied. Choose a --store where this user may write, "
        "or mend its permissions. Or keep what is found elsewhere, at --out URL.",
        nobody=True,
    ),
    "a page into a place that is not ours": Mistake(
        "report --store {store}",
        "mend its permissions. Or put the page elsewhere, at --out PATH.",
        nobody=True,
    ),
    "a place for findings that is not ours": Mistake(
        "reduce --store {store} --out {photos}/found",
        "cannot write to {photos}/found: Permission denied. Choose a --out where",
        nobody=True,
    ),
    "findings into a store": Mistake(
        "reduce --store {store} --out {other}", "--out {other} is a store itself"
    ),
    "findings of two stores in one place": Mistake(
        "reduce --store {other} --out {view}", "--out {view} holds what was found of {store}"
    ),
    "images into findings": Mistake(
        "extract --model {tiny} --pretrained none --images {photos} --store {view}",
        "--store {view} holds what was found of {store}: images go there",
    ),
    "findings whose store is gone": Mistake(
        "reduce --store {orphan}", "{orphan} holds what was found of the store at /gone, and that"
    ),
    "object storage without credentials": Mistake(
        "reduce --store s3://bucket/store",
        "s3://bucket/store",
        environment=dict.fromkeys(
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL")
        )
        | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"},
    ),
    "weights that are cut": Mistake(WITH + "{cut}", "{cut}", light=False),
    "a pointer in place of weights": Mistake(WITH + "{pointer}", "{pointer}", light=False),
    "weights of another architecture": Mistake(WITH + "{others}", "{others}", light=False),
    "weights that hold NaN": Mistake(WITH + "{nan}", "visual.proj", light=False),
    "weights by transformers' names": Mistake(WITH + "{transformers}", "transformers", light=False),
    "a table written anew with pictures in front": Mistake(
        "extract --model {tiny} --pretrained none --store {of_table} --images {table}"
        " --shard-size 2",
        "{of_table} was made from other images than {table} holds now",
        light=False,  # pictures are read again
        lines=4,  # which rows, why they are taken for others, and what to do
    ),
    "a folder too long for Ray's sockets": Mistake(
        EXTRACT + " --images {photos} --workers ray",
        "set RAY_TMPDIR to a short folder",
        light=False,
        environment={"RAY_TMPDIR": "/tmp/" + "scratch" * 12, "RAY_ADDRESS": None},
    ),
    "a cluster that does not answer": Mistake(
        EXTRACT + " --images {photos} --workers ray",
        "RAY_ADDRESS",
        light=False,
        environment={"RAY_ADDRESS": "127.0.0.1:9"},
    ),
    "no run file": Mistake("run {root}/nightly.yaml", "nightly.yaml cannot be read"),
    "a run file that is no YAML": Mistake("run {bad_yaml}", "{bad_yaml} is no YAML"),
    "a run file with a job that is none": Mistake(
        "run {bad_job}", "stage texspan: there is no job 'texspan'. Did you mean 'textspan'?"
    ),
    "a run file whose last stage cannot work": Mistake(
        "run {bad_layers}", "stage textspan: --layers 9: the model's layers are 0-3"
    ),
    "a run file whose first stage cannot work": Mistake(
        "run {bad_images}", "stage extract: {root}/phtos: 1 of 1 paths do not exist"
    ),
    "a run file with a stage of segment that cannot work": Mistake(
        "run {bad_segment}", "stage segment: --heads 9.0: the model has layers 0-3"
    ),
    "a run file with a setting that is none": Mistake(
        "run {bad_setting}", "there is no setting 'pol'. Did you mean 'pool'?"
    ),
}


@pytest.fixture(scope="module")
def world() -> Iterator[dict[str, str]]:
    """Places by name: a finished store of a tiny model, and what people take for one."""
    # Not below pytest's own folder, which its user alone may read.
    with TemporaryDirectory(prefix="mistakes-") as root:
        yield fill(Path(root))


def fill(root: Path) -> dict[str, str]:
    """Make the places."""
    for name in ("photos", "empty", "texts", "view", "orphan"):
        (root / name).mkdir()
    Image.new("RGB", (16, 16)).save(root / "photos/a.png")
    files = {
        "notes": "notes.txt",
        "tar": "photos.tar",
        "numbers": "numbers.parquet",
        "one": "one.txt",
        "pool": "pool.txt",
        "bad_yaml": "bad.yaml",
        "bad_job": "job.yaml",
        "bad_setting": "setting.yaml",
        "bad_segment": "segment.yaml",
        "bad_layers": "layers.yaml",
        "bad_images": "images.yaml",
        "cut": "cut.safetensors",
        "pointer": "pointer.safetensors",
        "others": "others.safetensors",
        "nan": "nan.safetensors",
        "transformers": "transformers.bin",
        "table": "table.parquet",
    }
    here = {
        "root": str(root),
        "source": "microworld:n=12,seed=3,split=test",
        "tiny": tiny.write_config(root, tiny.tiny({"layers": 4})),
        **{name: str(root / file) for name, file in files.items()},
        **{
            name: str(root / name)
            for name in ("photos", "empty", "texts", "store", "other", "newer", "half", "broken",
                         "view", "orphan", "of_table")
        },
    }  # fmt: skip
    (root / "texts/a.txt").write_text("a")
    (root / "notes.txt").write_text("red\n")
    (root / "one.txt").write_text("0\tcat\n")
    (root / "pool.txt").write_text("red\ngreen\nblue\n")
    shutil.make_archive(str(root / "photos"), "tar", root / "photos")
    pq.write_table(pa.table({"n": [1, 2]}), root / "numbers.parquet")
    (root / "bad.yaml").write_text("store: [\n")
    save_file({"visual.proj": torch.zeros(3, 3)}, root / "others.safetensors")
    state = load_model(ModelSpec(here["tiny"], "none")).module.state_dict()
    save_file(state | {"visual.proj": state["visual.proj"] * torch.nan}, root / "nan.safetensors")
    names = ("vision_model.embeddings.class_embedding", "text_model.final_layer_norm.weight")
    torch.save({name: torch.zeros(3) for name in names}, root / "transformers.bin")
    whole = (root / "others.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[:-10])
    (root / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, stage in (
        ("job", "texspan: {pool: general}"),
        ("setting", "textspan: {pol: a}"),
        ("segment", "segment: {classes: 'microworld:shape', class: label, heads: ['9.0']}"),
    ):
        (root / f"{name}.yaml").write_text(f"store: {here['store']}\nstages:\n  {stage}\n")
    for name, images in (("layers", here["source"]), ("images", f"{root}/phtos")):
        (root / f"{name}.yaml").write_text(
            f"store: {root}/made\nimages: {images}\nmodel: {here['tiny']}\npretrained: none\n"
            "stages:\n  extract:\n  textspan: {pool: microworld, layers: '9'}\n"
        )
    extract.main(
        extract.ExtractConfig(
            images=here["source"], model=here["tiny"], pretrained="none", store=here["store"],
            shard_size=6, workers="here",
        )
    )  # fmt: skip
    write_table(root / "table.parquet", ["red", "green"])
    extract.main(
        extract.ExtractConfig(
            images=here["table"], model=here["tiny"], pretrained="none", store=here["of_table"],
            shard_size=2, workers="here",
        )
    )  # fmt: skip
    write_table(root / "table.parquet", ["blue", "red", "green"])
    for name in ("other", "newer", "half", "broken"):
        shutil.copytree(here["store"], here[name])
    shutil.rmtree(root / "half/ledger")
    metadata = root / "broken/contributions.zarr/zarr.json"
    metadata.write_text(metadata.read_text()[:-100])
    metadata = root / "newer/contributions.zarr/zarr.json"
    raw = json.loads(metadata.read_text())
    raw["attributes"]["facet"]["schema_version"] = 99
    metadata.write_text(json.dumps(raw))
    facet = raw["attributes"]["facet"] | {"schema_version": 2}
    for name, store in (("view", here["store"]), ("orphan", "/gone")):
        noted = {"store": store, "facet": facet, "until": 0.0}
        (root / name / "store.json").write_text(json.dumps(noted))
    for path in (root, root.parent, root.parent.parent, *root.rglob("*")):
        path.chmod(
            path.stat().st_mode | 0o055
        )  # for others to read: pytest's folders are one's own
    return here


def write_table(path: Path, colours: list[str]) -> None:
    """A table of pictures without keys: a row is known by its place alone."""
    pictures = []
    for colour in colours:
        Image.new("RGB", (16, 16), colour).save(into := io.BytesIO(), "PNG")
        pictures.append(into.getvalue())
    pq.write_table(pa.table({"image": pictures}), path)


def tree(root: str) -> dict[str, bytes | None]:
    """Every file below, and every folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in Path(root).rglob("*")
    }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_line_and_nothing_is_lost(name, world):
    asked = MISTAKES[name]
    before = tree(world["root"])
    got = typed.run(
        *(word.format(**world) for word in shlex.split(asked.command)),
        folder=world["root"],
        environment=asked.environment,
        nobody=asked.nobody,
    )
    told = [line for line in got.err.splitlines() if not line.startswith("{")]
    assert got.status == 2, got
    assert told[0].startswith("error: "), got.err
    assert asked.said.format(**world) in told[0], got.err
    if not asked.command.startswith("extrct"):  # which lists the jobs
        assert len(told) == asked.lines, got.err
    assert "Traceback" not in got.err + got.out
    if asked.light:
        assert not set(got.loaded) & set(NONE_OF), got.loaded
    assert tree(world["root"]) == before
