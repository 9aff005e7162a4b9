"""Concepts of one picture against the equations written out: scores, and where they come from."""

import numpy as np
import pytest
import torch

from pipeline.concepts.by_codes import LEFT, ByEmbedding, ByHeads, Dictionary, Rest
from pipeline.concepts.found import OfPicture, arrays, tables
from pipeline.concepts.picture import FIRES, concepts_of, first_texts
from pipeline.concepts.wrote import seen
from pipeline.models import model_maps
from pipeline.neurons.maps import second_order_maps
from tests.pipeline.concepts.kit import by_neurons, random_codes, scores_by_loops
from tests.pipeline.neurons.forward_kit import TINY, oracle, perturbed, random_images

LAYERS, GRID = (0, 2), (3, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return perturbed(TINY, tmp_path_factory.mktemp("model"), 7)


@pytest.fixture(scope="module")
def images(model):
    return random_images(model, 7, 6)


def effects_by_token(model, truth, mlp_layer):
    """φ by Eq. 3.3 with the A of B.5, token by token, over ‖embedding‖: (token, neuron, embed)."""
    own, total = truth.layers[mlp_layer], 0.0
    for later in truth.layers[mlp_layer + 1 :]:
        for head in range(model.heads):
            scaled = later.gamma[:, None] * (own.w_n - own.w_n.mean(0))
            vectors = np.einsum(
                "de,dk,kc,cn->ne", truth.joint, later.w_o[:, head], later.w_v[head], scaled
            )
            weights = later.alpha[head] / later.std
            total = total + np.einsum("tn,t,ne->tne", own.hidden, weights, vectors)
    return total


@pytest.fixture(scope="module")
def known(model, images):
    """Effects of six pictures from the equations, and neurons that know these pictures alone."""
    rng = np.random.default_rng(7)
    truths = [oracle(model, image.numpy()) for image in images]
    norm_b = seen(model, images, [0], False).reads.embedding_be.norm(dim=1).numpy()
    tokens = {
        at: np.stack([effects_by_token(model, t, at) for t in truths]) / norm_b[:, None, None, None]
        for at in LAYERS
    }
    phi = {at: of.sum(1) for at, of in tokens.items()}
    means = {at: of.mean(0) for at, of in phi.items()}
    lengths = {
        at: np.percentile(np.linalg.norm(phi[at] - means[at], axis=2), 50, axis=0) for at in LAYERS
    }
    directions = {at: rng.normal(size=means[at].shape) for at in LAYERS}
    codes = random_codes(rng, dict.fromkeys(LAYERS, model.mlp_width), 9, 0.3)
    maps = {at: second_order_maps(model, at, torch.float64) for at in LAYERS}
    scale = [t.std * norm for t, norm in zip(truths, norm_b, strict=True)]
    coefficients = {}
    for at in LAYERS:
        rows = [
            np.concatenate([of.alpha / of.std for of in t.layers[at + 1 :]]) @ t.layers[at].hidden
            for t in truths
        ]
        coefficients[at] = np.mean([s / one for s, one in zip(rows, scale, strict=True)], axis=0)
    by = by_neurons(
        codes, maps, {at: torch.from_numpy(of) for at, of in directions.items()},
        {at: torch.from_numpy(of) for at, of in coefficients.items()}, lengths,
    )  # fmt: skip
    gammas = {at: codes.by_layer[at].toarray() for at in LAYERS}
    return by, tokens, phi, means, directions, lengths, gammas


def test_scores_of_a_pass_are_those_of_the_equations(model, images, known):
    by, _, phi, means, directions, lengths, gammas = known
    wanted = scores_by_loops(phi, means, directions, lengths, gammas)
    for b in range(len(images)):
        wrote = seen(model, images[b : b + 1], LAYERS, parts=False)
        np.testing.assert_allclose(by.scores(wrote.rows)[0], wanted[b], rtol=1e-8, atol=1e-10)


def test_a_map_with_what_it_leaves_out_is_the_score_token_by_token(model, images, known):
    by, tokens, phi, means, directions, lengths, gammas = known
    for b in range(2):
        wrote = seen(model, images[b : b + 1], LAYERS, parts=False)
        told = concepts_of("neurons", by, wrote, 9, grid=GRID)
        assert [m.text for m in told.maps] == list(told.scores)
        assert len(told.maps) == 9
        for of in told.maps:
            text = by.texts.index(of.text)
            split_t, mean = np.zeros(10), 0.0
            for at in LAYERS:
                for neuron in range(phi[at].shape[1]):
                    if np.linalg.norm(phi[at][b, neuron] - means[at][neuron]) > lengths[at][neuron]:
                        gamma, along = gammas[at][neuron, text], directions[at][neuron]
                        split_t += gamma * tokens[at][b, :, neuron] @ along
                        mean -= gamma * means[at][neuron] @ along
            np.testing.assert_allclose(of.map_rc.ravel(), split_t[1:], rtol=1e-8, atol=1e-11)
            assert of.class_token == pytest.approx(split_t[0], rel=1e-8, abs=1e-11)
            assert of.mean == pytest.approx(mean, rel=1e-8, abs=1e-11)
            total = of.map_rc.sum() + of.class_token + of.mean
            assert total == pytest.approx(told.scores[of.text], rel=1e-10, abs=1e-12)


def test_who_said_it_adds_up_and_the_strongest_show_where_they_fire(model, images, known):
    by, truth = known[0], oracle(model, images[0].numpy())
    wrote = seen(model, images[:1], LAYERS, parts=False)
    weights = {at: of[0] for at, of in by.weights(wrote.rows).items()}
    told = concepts_of("neurons", by, wrote, 9, grid=GRID)
    for text, score in told.scores.items():
        shares = [one.share for one in told.said[text]]
        assert sum(shares) == pytest.approx(score)
        assert shares == sorted(shares, key=lambda share: -abs(share))
    assert told.active == sum(np.count_nonzero(of) for of in weights.values())
    assert told.parts == 2 * model.mlp_width
    assert len(told.fires) == FIRES
    sizes = [abs(weights[of.layer][of.neuron]) for of in told.fires]
    every = np.sort(np.abs(np.concatenate(list(weights.values()))))[::-1]
    np.testing.assert_array_equal(sizes, every[:FIRES])
    for of in told.fires:
        hidden = truth.layers[of.layer].hidden[1:, of.neuron]
        np.testing.assert_allclose(of.map_rc.ravel(), hidden, rtol=1e-9, atol=1e-12)


def test_texts_that_are_spoken_for_come_before_those_that_are_spoken_against():
    scores = np.array([0.5, -3.0, 0.0, 2.0, -1.0, 1.0])
    assert list(first_texts("abcdef", scores, 2).items()) == [
        ("d", 2.0), ("f", 1.0), ("b", -3.0), ("e", -1.0),
    ]  # fmt: skip
    assert list(first_texts("abcdef", scores, 9)) == ["d", "f", "a", "b", "e"]


def test_three_ways_of_one_picture_as_tables(model, images, known):
    """Heads and embedding of a pass; what codes leave sums to all that they do not say."""
    rng, embed = np.random.default_rng(1), model.embed_dim
    dictionary = Dictionary.of([f"text {i}" for i in range(20)], rng.normal(size=(20, embed)))
    maps, at = model_maps(model), ((2, 2, 3, 3), (0, 1, 0, 1))
    means = 0.1 * rng.normal(size=(model.layers, model.heads, model.head_dim))
    mean_e = 0.1 * rng.normal(size=embed)
    heads = tuple(zip(*at, strict=True))
    by = ByHeads(dictionary, heads, maps.head_map[at], means[at], mean_e, 3)
    rest = Rest(maps.head_map, maps.mlp_map, means, np.zeros((model.layers + 1, model.width)))
    wrote = seen(model, images[:1], LAYERS, parts=True)
    told = [
        concepts_of("neurons", known[0], wrote, 3, grid=GRID),
        concepts_of("heads", by, wrote, 20, rest),
        concepts_of("embedding", ByEmbedding(dictionary, mean_e, 4), wrote, 20),
    ]
    kept = tables([OfPicture("image 0, a", 0, told)])
    whole = wrote.parts.embedding_be[0] / wrote.parts.norm_b[0] - mean_e
    scores = kept["concepts"].query("method == 'heads'").set_index("text")["score"]
    coded = scores @ dictionary.atoms_me.numpy()[[dictionary.texts.index(t) for t in scores.index]]
    left = kept["left"].query("method == 'heads'").set_index("part")
    assert list(left.index) == [*LEFT, "all"]
    assert left["share"][list(LEFT)].sum() == pytest.approx(left["share"]["all"])
    assert left["share"]["all"] == pytest.approx(1 - coded @ whole / (whole @ whole))
    gone = np.linalg.norm(whole - coded) / np.linalg.norm(whole)
    assert left["length"]["all"] == pytest.approx(gone)
    assert kept["pictures"]["left"].tolist()[1] == pytest.approx(gone)
    said = kept["said"].query("method == 'heads'")
    assert (said["weight"] == 1).all()
    sums = said.groupby("text")["coefficient"].sum()
    np.testing.assert_allclose(sums[scores.index], scores)
    assert set(zip(said["layer"], said["part"], strict=True)) <= set(heads)
    embedding = kept["concepts"].query("method == 'embedding'")
    assert (embedding["score"] > 0).all()
    assert (embedding["parts"] == 1).all()  # the embedding itself
    assert len(embedding) <= 4
    unit = whole / np.linalg.norm(whole)
    rows = [dictionary.texts.index(t) for t in embedding["text"]]
    residual = unit - embedding["score"].to_numpy() @ dictionary.atoms_me.numpy()[rows]
    assert kept["pictures"]["left"].tolist()[2] == pytest.approx(np.linalg.norm(residual))
    maps_kept = arrays([OfPicture("image 0, a", 0, told)])
    assert maps_kept["maps"]["map"].shape == (len(told[0].maps), *GRID)
    assert maps_kept["fires"]["map"].shape == (FIRES, *GRID)
    assert arrays([OfPicture("image 0, a", 0, told[1:])]) == {}
