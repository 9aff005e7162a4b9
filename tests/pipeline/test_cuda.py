"""What only a GPU can show: the same numbers as on the CPU, and the whole jobs on it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch.nn.functional import normalize

from pipeline.extraction.decompose import Decomposer
from pipeline.extraction.feed import Link
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.erasure import Erasure
from pipeline.heatmaps.gradients import GradientMaps
from pipeline.heatmaps.plain import PLAIN, PlainMaps
from pipeline.heatmaps.relevance import RelevanceMaps
from pipeline.heatmaps.scores import relevance, score
from pipeline.images import card as jpegs
from pipeline.images.batches import Batch
from pipeline.images.decoding import WAYS
from pipeline.images.load import load_rows
from pipeline.images.resize import Resize
from pipeline.models import ModelSpec, VisionModel, load_model, mlps, norms
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.omp import omp
from pipeline.rosetta.sums import HalfMaps, Layout, PairSums, finalize
from storage import open_store
from storage.rosetta import Tile
from tests.pipeline.images.kit import encode, listed, photograph
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images
from tests.pipeline.neurons.omp_kit import dense, oracle, problem
from tests.pipeline.rosetta.kit import card, direct, random_maps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def on_gpu(model: VisionModel, dtype: torch.dtype) -> VisionModel:
    return replace(model, module=model.module.cuda(), device=torch.device("cuda"), dtype=dtype)


def close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        scale = expected[name].abs().max()
        assert (found[name].cpu() - expected[name]).abs().max() <= tolerance * scale, name


def parts(model, images):
    made = Decomposer(model, ("heads", "mlps", "tokens"), (1, 2))(images)
    names = ("heads_blhk", "mlps_bsd", "tokens_bte", "embedding_be", "ln_std_b")
    return {name: getattr(made, name) for name in names}, made.residual_b.max().item()


def test_parts_equal_the_cpus_in_float64(tmp_path):
    model = perturbed(TINY, tmp_path, 0)
    images = random_images(model, 0, 5)
    expected, _ = parts(model, images)
    found, residual = parts(on_gpu(model, torch.float64), images)
    close(found, expected, 1e-12)
    assert residual < 1e-12


def test_maps_are_scored_as_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 7, 7, generator=generator, dtype=torch.float64)
    masks = torch.randint(0, 3, (5, 56, 56), generator=generator)
    masks = torch.where(masks == 2, 255, masks).to(torch.uint8)
    shown = relevance(maps, (56, 56), clipped=True)
    np.testing.assert_allclose(relevance(maps.cuda(), (56, 56), True).cpu(), shown, atol=1e-12)
    for r in (shown, shown.float(), (shown * 9).round() / 9):  # the last with many ties
        expected, found = score(r, masks), score(r.cuda(), masks.cuda())
        close(vars(found), vars(expected), 1e-12)


@pytest.mark.parametrize(
    ("dtype", "bound", "apart"),
    [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 2e-2, 0.1), (torch.float16, 2e-2, 0.02)],
)
def test_residual_and_distance_from_float64_by_precision(dtype, bound, apart):
    exact = load_model(ModelSpec("ViT-B-32", "none"), dtype=torch.float64)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected, _ = parts(exact, images)
    model = on_gpu(load_model(ModelSpec("ViT-B-32", "none")), dtype)
    found, residual = parts(model, images)
    assert residual < bound
    # In TF32 a product would be wrong by 1e-3.
    close(found, {name: values.float() for name, values in expected.items()}, apart)


@pytest.mark.parametrize("width", [7, 768, 1024, 1280, 1664])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_norms_in_a_kernel_are_the_plain_ones(width, dtype):
    norm = torch.nn.LayerNorm(width, device="cuda")
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    whole_btd = 3 * torch.randn(33, 5, width, device="cuda") + 1
    for carried in (5, 1):
        x_btd = whole_btd.clone()[:, :carried]
        written_btd = torch.randn(x_btd.shape, device="cuda").to(dtype)
        summed_btd = x_btd + written_btd
        expected = norm(summed_btd)
        assert norms._in_a_kernel(norm, x_btd, dtype)
        added = norms.add_normed(norm, x_btd, written_btd, dtype)
        assert torch.equal(x_btd, summed_btd)
        again = norms.normed(norm, x_btd, dtype)
        for found in (added, again):
            error = (found.float() - expected).abs()
            assert (error <= torch.finfo(dtype).eps * expected.abs() + 2e-5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_quick_gelu_in_a_kernel_is_the_equation(dtype):
    activation = QuickGELU()
    x = (4 * torch.randn(33, 5, 1023, device="cuda")).to(dtype)
    expected = activation(x.double())
    found = mlps.activated(activation, x)
    assert found is x  # else it was not the kernel
    error = (found.double() - expected).abs()
    assert (error <= torch.finfo(dtype).eps * expected.abs() + 1e-6).all()


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_parts_with_and_without_the_kernels(monkeypatch, name):
    model = on_gpu(load_model(ModelSpec(name, "none")), torch.bfloat16)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found, residual = parts(model, images)
    for module in (norms, mlps):
        monkeypatch.setattr(module, "kernels_run", lambda device: False)
    expected, plain_residual = parts(model, images)
    close({k: v.cpu() for k, v in found.items()}, {k: v.cpu() for k, v in expected.items()}, 0.1)
    assert max(residual, plain_residual) < 2e-2


def test_neurons_equal_the_cpus_in_float64(tmp_path):
    model = perturbed(TINY, tmp_path, 1)
    images = random_images(model, 1, 4)
    wanted = ("coefficients", "totals", "class_neurons", "peaks")
    expected = NeuronPass(model, [0, 2], wanted)(images)
    found = NeuronPass(on_gpu(model, torch.float64), [0, 2], wanted)(images)
    for name in wanted:
        close(getattr(found, name), getattr(expected, name), 1e-12)


def heat_maps(model, images):
    """Maps of all methods, and what they come to as patches are removed."""
    texts_ce = normalize(
        torch.randn(6, model.embed_dim, generator=torch.Generator().manual_seed(5))
    )
    asked = Asked(
        torch.arange(len(images), device=model.device),
        texts_ce.to(**model.wide),
        torch.arange(len(images)),
    )
    images = images.to(model.device)
    directions = {
        layer: np.random.default_rng(layer).standard_normal((model.mlp_width, model.embed_dim))
        for layer in range(model.layers - 1)
    }
    heads = {"last:1": [(model.layers - 1, head) for head in range(model.heads)]}
    maps = {
        **PlainMaps(model, PLAIN, heads, directions)(images, asked),
        **GradientMaps(model)(images, asked),
        **RelevanceMaps(model)(images, asked),
    }
    areas = Erasure(model, 4)(images, asked, maps)
    return {
        **{name: map_byx.detach() for name, map_byx in maps.items()},
        **{f"{row} {i}": area for row, pair in areas.items() for i, area in enumerate(pair)},
    }


def test_heat_maps_equal_the_cpus_in_float64(tmp_path):
    model = perturbed(TINY, tmp_path, 2)
    images = random_images(model, 2, 5)
    expected = heat_maps(model, images)
    found = heat_maps(on_gpu(model, torch.float64), images)
    close(found, expected, 1e-9)


def test_codes_equal_scikit_learns():
    dictionary, targets = problem(3, 600, 40, 6, near=3)
    codes = omp(dictionary.cuda(), targets.cuda(), 30)
    codes = replace(codes, supports=codes.supports.cpu(), coefficients=codes.coefficients.cpu())
    for n, target in enumerate(targets):
        support, code = oracle(dictionary, target, 30)
        assert sorted(codes.supports[n].tolist()) == support.tolist()
        np.testing.assert_allclose(dense(codes, 600)[n], code, rtol=1e-5, atol=1e-5)


def test_correlations_equal_the_direct_ones():
    rng = np.random.default_rng(0)
    a, b = card("a", (5, 14, 14), (7, 7, 7)), card("b", (6, 10, 10))
    maps_a, maps_b = random_maps(rng, a, 12), random_maps(rng, b, 12)
    layout = Layout(a, b, Tile("a", "b", 0, a.units))
    sums = PairSums(layout, "cuda")
    for half in (0, 1):
        sums.add(half, *(
            HalfMaps([torch.from_numpy(m[half::2]).cuda() for m in maps])
            for maps in (maps_a, maps_b)
        ))  # fmt: skip
    found = finalize(layout, sums.sums()).whole
    np.testing.assert_allclose(found, direct(maps_a, maps_b), atol=1e-6)


@pytest.mark.cluster
def test_the_jobs_on_a_gpu_give_what_the_cpu_gives(tmp_path, ray_cluster):
    from jobs import extract, omp, rosetta, second_order, textspan

    stores = {}
    for device in ("cpu", "cuda"):
        stores[device] = extract.main(
            extract.ExtractConfig(
                images="microworld:n=96,seed=3,split=test", model="microworld",
                pretrained="microworld", store=str(tmp_path / device), store_dtype="float32",
                components=("heads", "mlps", "tokens"), shard_size=32, device=device,
            )
        )  # fmt: skip
        second_order.main(
            second_order.SecondOrderConfig(
                str(tmp_path / device), mlp_layers="2", top_k=20, device=device
            )
        )
    assert stores["cuda"].validate() == []
    cpu, cuda = (open_store(str(tmp_path / d)).contributions().load() for d in stores)
    for name in ("heads", "mlps", "tokens", "embedding", "ln_std"):
        scale = np.abs(cpu[name].values).max()
        np.testing.assert_allclose(cuda[name].values, cpu[name].values, atol=1e-4 * scale)
    assert float(cuda.residual.max()) < 1e-5
    url = str(tmp_path / "cuda")
    textspan.main(textspan.TextSpanConfig(store=url, pool="microworld", layers="last:1"))
    omp.main(omp.OmpConfig(store=url, mlp_layers="2", pool="microworld", terms=8))
    found = {}
    for device in ("cpu", "cuda"):
        run = rosetta.main(
            rosetta.RosettaConfig(
                models=("microworld", "microworld-cnn"), out=str(tmp_path / f"{device}-shared"),
                images="microworld:n=64,seed=3,split=test", shard_size=32, device=device,
            )
        )  # fmt: skip
        found[device] = run.buddies
    assert len(found["cuda"]) == pytest.approx(len(found["cpu"]), rel=0.02)


def test_jpegs_are_decoded_and_resized_as_on_the_cpu(tmp_path):
    """nvJPEG makes other pixels of a file, mostly where colours are subsampled; else nothing is."""
    for i in range(20):
        options = {"progressive": i % 3 == 0, "subsampling": i % 3}
        data = encode(photograph((150 + 9 * i, 200 - 4 * i), i), "JPEG", **options)
        (tmp_path / f"{i:02}.jpg").write_bytes(data[:-500] if i == 7 else data)
    grey = photograph((90, 120), 3).convert("L")
    (tmp_path / "grey.jpg").write_bytes(encode(grey, "JPEG"))
    rows, size = listed(tmp_path), (64, 64)
    exact, _, gpu = (Resize(*size, "bicubic", "shortest", 0, 1.0, way) for way in WAYS)
    expected = load_rows(rows, exact, size)
    left = load_rows(rows, gpu, size, gpu.on_card)
    found = jpegs.settled(left, "cuda")
    for name in ("error", "sha256", "width", "height"):
        assert getattr(found, name) == getattr(expected, name), name
    away = np.abs(found.pixels.astype(int) - expected.pixels)
    assert away.mean() < 1
    assert away.max() < 64
    batches = [Batch(0, left, [""] * len(rows), [""] * len(rows))] * 3
    with Link(torch.device("cuda")).placed(batches) as placed:
        for batch, pixels in placed:
            assert batch.loaded.encoded is None
            assert np.array_equal(pixels.cpu(), found.pixels)


def test_a_batch_is_resized_as_on_the_cpu():
    resize = Resize(64, 48, "bicubic", "longest", (1, 2, 3), 1.0, "gpu")
    pictures = [
        torch.from_numpy(np.array(photograph((50 + 7 * i, 90 - 4 * i), i))).permute(2, 0, 1)
        for i in range(9)
    ]
    found = jpegs.resized([picture.cuda() for picture in pictures], resize).cpu()
    assert (found.int() - jpegs.resized(pictures, resize)).abs().max() <= 1
