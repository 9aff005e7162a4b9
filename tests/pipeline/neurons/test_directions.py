"""Top images and directions, against effects written out in full."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.neurons import directions
from pipeline.neurons.directions import (
    directions_of,
    explained_variance,
    first_directions,
    top_chunk,
    top_combine,
)
from pipeline.neurons.effects import ablate
from pipeline.neurons.equal_share import equal_share_offset
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import gram_matrices, published_scale, second_order_maps
from pipeline.stats.moments import chunk, combine, finalize
from tests.pipeline.neurons.forward_kit import (
    TINY,
    golden_model,
    perturbed,
    random_images,
    random_maps,
)


def oracle(phi_ine, k):
    """The published rule on effects written out: centre, top k by norm, SVD, sign."""
    deviations = phi_ine - phi_ine.mean(0)
    norms = np.linalg.norm(deviations, axis=2)
    for n in range(phi_ine.shape[1]):
        top = np.argsort(-norms[:, n], kind="stable")[:k]
        _, singular, right = np.linalg.svd(deviations[top, n], full_matrices=False)
        scores = deviations[top, n] @ right[0]
        sign = 1 if (scores > 0).sum() > k // 2 else -1
        yield top, norms[top, n], sign * right[0], singular


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(8, 40),
    paths=st.integers(1, 12),
    embed=st.integers(2, 9),
    k=st.sampled_from([1, 3, 5, 7]),
    cut=st.integers(1, 7),
)
def test_directions_equal_those_of_effects_written_out(seed, images, paths, embed, k, cut):
    generator = torch.Generator().manual_seed(seed)
    maps = random_maps(generator, paths, 6, 3, embed)
    s = torch.randn(images, paths, 6, generator=generator, dtype=torch.float64) + 3
    phi = maps.effects(s, range(6))
    deviations = s - s.mean(0)
    norms = maps.norms(deviations)
    numbers = torch.arange(images)
    states = [
        top_chunk(norms[part], deviations[part], numbers[part], k)
        for part in torch.arange(images).split(cut)
    ]
    top = top_combine(reversed(states))
    found = directions_of(top, maps)
    covariance = torch.einsum("ipn,iqn->npq", deviations, deviations) / images
    explained = explained_variance(found.directions, covariance, maps)
    phi_deviations = (phi - phi.mean(0)).numpy()
    for n, (order, lengths, direction, singular) in enumerate(oracle(phi.numpy(), k)):
        if n == 0:
            continue
        assert top.images[n].tolist() == order.tolist()
        np.testing.assert_allclose(top.norms[n], lengths, rtol=1e-9)
        assert found.explained[n] == pytest.approx(singular[0] ** 2 / (singular**2).sum())
        if len(singular) > 1 and singular[1] > 0.99 * singular[0]:
            continue  # the direction is ill-conditioned
        np.testing.assert_allclose(found.directions[n], direction, atol=1e-7)
        scores = phi_deviations[order, n] @ direction
        np.testing.assert_allclose(found.scores[n], scores, atol=1e-7)
        assert found.positive[n] == (scores > 0).sum()
        along = np.square(phi_deviations[:, n] @ direction).sum()
        assert explained[n] == pytest.approx(along / np.square(phi_deviations[:, n]).sum())
    assert (found.directions[0] == 0).all()
    assert (found.explained[0], explained[0]) == (0, 0)


@pytest.mark.parametrize(("k", "width"), [(6, 4), (4, 6)])
def test_directions_of_rows_written_out(k, width):
    rows = torch.randn(3, k, width, dtype=torch.float64)
    rows[2] = 0
    found = first_directions(rows)
    for n in range(2):
        _, singular, right = np.linalg.svd(rows[n].numpy(), full_matrices=False)
        assert abs(found.directions[n].numpy() @ right[0]) == pytest.approx(1)
        assert found.explained[n] == pytest.approx(singular[0] ** 2 / (singular**2).sum())
        torch.testing.assert_close(found.scores[n], rows[n] @ found.directions[n])
        assert found.positive[n] >= k / 2
    assert (found.directions[2] == 0).all()
    assert found.explained[2] == 0


def test_published_directions(shared, tmp_path):
    """golden/second_order.npz has its offset in every effect: here it enters as further paths."""
    golden = np.load(shared / "golden" / "second_order.npz")
    images = torch.from_numpy(np.load(shared / "golden" / "images24.npz")["images"]).double()
    model = golden_model(shared / "golden", tmp_path)
    layer, k = int(golden["mlp_layer"]), int(golden["top_k"])
    parts = NeuronPass(model, [layer], ("coefficients", "shifts"))(images)
    s = 100 * published_scale(parts.coefficients[layer], parts.ln_std_b, parts.embedding_be)
    offset = 100 * equal_share_offset(model, layer, parts)
    offset /= parts.embedding_be.norm(dim=1, keepdim=True)
    maps = second_order_maps(model, layer, torch.float64, "equal-share")
    embed, (_, neurons, head_dim) = model.embed_dim, maps.values_pnk.shape
    ones = torch.zeros(embed, neurons, head_dim, dtype=torch.float64)
    ones[:, :, 0] = 1
    basis = torch.zeros(embed, head_dim, embed, dtype=torch.float64)
    basis[:, 0] = torch.eye(embed)
    values, head_map = torch.cat([maps.values_pnk, ones]), torch.cat([maps.head_map_pke, basis])
    maps = replace(
        maps, values_pnk=values, head_map_pke=head_map, gram_npp=gram_matrices(values, head_map)
    )
    s = torch.cat([s, offset[:, :, None].expand(-1, -1, neurons)], 1)
    deviations = s - s.mean(0)
    top = top_chunk(maps.norms(deviations), deviations, torch.arange(24), k)
    np.testing.assert_allclose(top.norms.flip(1), golden["top_norms"], rtol=1e-6)
    found = directions_of(top, maps)
    cosines = np.abs((found.directions.numpy() * golden["pca"]).sum(1))
    conditioned = golden["sv_ratio"] < 0.9
    assert conditioned.mean() > 0.5
    np.testing.assert_allclose(cosines[conditioned], 1, atol=1e-5)
    assert np.median(cosines) > 0.999
    positive = (found.directions.numpy() * golden["pca"]).sum(1) > 0
    assert positive[conditioned].all()
    before_the_sign = np.maximum(golden["n_positive"], k - golden["n_positive"])
    np.testing.assert_array_equal(found.positive[conditioned], before_the_sign[conditioned])


def test_two_phases_over_stored_shards(tmp_path):
    """As a job does it: float16 coefficients, a mean from `moments`, then the top images."""
    model = perturbed(TINY, tmp_path, 0)
    images, layer, k = random_images(model, 0, 30), 1, 5
    run, maps = NeuronPass(model, [layer]), second_order_maps(model, layer, torch.float64)
    shards = []
    for batch in images.split(8):
        parts = run(batch)
        scale = parts.ln_std_b * parts.embedding_be.norm(dim=1)
        shards.append((parts.coefficients[layer].half(), scale))
    rows = ((s.movedim(1, 2).numpy(), scale.numpy()) for s, scale in shards)
    statistics = finalize(combine(chunk(s, scale=scale) for s, scale in rows))
    mean_pn = torch.from_numpy(statistics.mean.T)
    states = []
    for (s, scale), numbers in zip(shards, torch.arange(30).split(8), strict=True):
        deviations = s / scale[:, None, None] - mean_pn
        states.append(top_chunk(maps.norms(deviations), deviations, numbers, k))
    top = top_combine(states)
    found = directions_of(top, maps)
    covariance = torch.from_numpy(statistics.covariance)
    explained = explained_variance(found.directions, covariance, maps)
    whole = run(images)
    s = published_scale(whole.coefficients[layer], whole.ln_std_b, whole.embedding_be)
    phi = maps.effects(s, range(model.mlp_width)).numpy()
    for n, (_, lengths, direction, singular) in enumerate(oracle(phi, k)):
        np.testing.assert_allclose(top.norms[n], lengths, rtol=5e-3)
        if singular[1] < 0.8 * singular[0]:
            assert found.directions[n].numpy() @ direction > 0.999
        along = np.square((phi[:, n] - phi[:, n].mean(0)) @ found.directions[n].numpy()).mean()
        assert explained[n] == pytest.approx(along / phi[:, n].var(0).sum(), rel=1e-2)


def test_ablations_equal_those_of_effects_written_out():
    generator = torch.Generator().manual_seed(0)
    maps = random_maps(generator, 5, 7, 3, 6)
    deviations = torch.randn(4, 5, 7, generator=generator, dtype=torch.float64)
    phi = maps.effects(deviations, range(7))
    large = phi.norm(dim=2) > phi.norm(dim=2).median()
    directions, written = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64)
    removed = ablate(deviations, large, directions, maps)
    torch.testing.assert_close(removed.all_neurons, phi.sum(1))
    torch.testing.assert_close(removed.large, (phi * large[..., None]).sum(1))
    torch.testing.assert_close(removed.small, (phi * ~large[..., None]).sum(1))
    x = (phi * directions).sum(2, keepdim=True)
    torch.testing.assert_close(removed.beside_component, (phi - x * directions).sum(1))
    sparse = ablate(deviations, large, directions, maps, written)
    torch.testing.assert_close(sparse.beside_component, (phi - x * written).sum(1))


def test_bad_input_is_refused():
    generator = torch.Generator().manual_seed(0)
    maps = random_maps(generator, 2, 3, 3, 4)
    deviations = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    norms, numbers = maps.norms(deviations), torch.arange(4)
    with pytest.raises(ValueError, match="4 images were seen, but the top 5 are asked for"):
        directions_of(top_chunk(norms, deviations, numbers, 5), maps)
    with pytest.raises(ValueError, match="the top 0 images"):
        top_chunk(norms, deviations, numbers, 0)
    with pytest.raises(ValueError, match="1 of 4 images have NaN"):
        faulty = deviations.clone()
        faulty[2, 0, 1] = torch.nan
        top_chunk(maps.norms(faulty), faulty, numbers, 2)
    with pytest.raises(ValueError, match="no states"):
        top_combine([])
    with pytest.raises(ValueError, match="different layers or k"):
        top_combine([top_chunk(norms, deviations, numbers, k) for k in (2, 3)])


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 12),
    width=st.integers(1, 12),
    second=st.sampled_from([0, 0.1, 0.9, 0.99, 0.9999, 1 - 1e-9, 1]),
    scale=st.sampled_from([1e-12, 1, 1e12]),
)
def test_components_are_the_first_whatever_comes_second(seed, rows, width, second, scale):
    """Where the second is as long, any vector between both is as good."""
    rng, count = np.random.default_rng(seed), min(rows, width)
    lengths = scale * np.array([1, *(second * rng.random(count - 1))])
    lengths[1:2] = scale * second
    of = [np.linalg.qr(rng.standard_normal((5, n, count)))[0] for n in (rows, width)]
    given = (of[0] * lengths) @ of[1].transpose(0, 2, 1)
    found = first_directions(torch.from_numpy(given))
    axes = found.directions.numpy()
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1, rtol=1e-12)
    along = np.linalg.norm(given @ axes[..., None], axis=(1, 2))
    np.testing.assert_allclose(along, scale, rtol=1e-12)
    np.testing.assert_allclose(found.explained, scale**2 / (lengths**2).sum(), rtol=1e-10)
    if second <= 0.99:
        np.testing.assert_allclose(np.abs((axes * of[1][..., 0]).sum(1)), 1, rtol=1e-12)


@pytest.mark.parametrize("squarings", [0, directions.SQUARINGS])  # without any, all is diagonalised
@pytest.mark.parametrize(("neurons", "threads"), [(7, 3), (2, 4), (1, 1)])
def test_directions_are_the_same_with_several_threads(neurons, threads, squarings, monkeypatch):
    monkeypatch.setattr(directions, "SQUARINGS", squarings)
    rows_nke = torch.randn(neurons, 9, 5, generator=torch.Generator().manual_seed(6))
    wanted = first_directions(rows_nke)
    _, _, right = np.linalg.svd(rows_nke.double().numpy(), full_matrices=False)
    cosines = (wanted.directions.numpy() * right[:, 0]).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-9)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = first_directions(rows_nke)
    finally:
        torch.set_num_threads(before)
    for name in ("directions", "explained", "positive", "scores"):
        one, other = getattr(found, name), getattr(wanted, name)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)  # sums in another order
