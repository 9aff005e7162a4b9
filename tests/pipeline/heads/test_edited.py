"""A model with an edit applied gives what the store's algebra gives, and maps that sum to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extraction.decompose import Decomposer
from pipeline.heads.ablation import StoredParts
from pipeline.heads.edited import EditedModel
from pipeline.heads.edits import Edit, EditError, edited_embedding
from pipeline.heatmaps.split import TERMS, split_of
from pipeline.heatmaps.tokens import TokenMaps
from pipeline.models import VisionModel, model_maps
from tests.pipeline.heatmaps.plain_kit import every_head, shapes, unit_rows
from tests.pipeline.neurons.forward_kit import perturbed, random_images

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def an_edit(model: VisionModel, seed: int) -> Edit:
    """Random gains, about half of them 1."""
    rng = np.random.default_rng(seed)
    gains = [
        np.where(rng.random(shape) < 0.5, 1, rng.normal(size=shape))
        for shape in ((model.layers, model.heads), (model.layers + 1,), (model.layers,))
    ]
    return Edit("some", model.weights_digest, *gains, rng.normal(size=model.embed_dim))


def by_parts(model: VisionModel, images: torch.Tensor, edit: Edit) -> np.ndarray:
    """As a store of these pictures, never rounded, has it."""
    parts = Decomposer(model)(images)
    arrays = {
        name: getattr(parts, name).double().numpy()
        for name in ("heads_blhk", "mlps_bsd", "embedding_be", "ln_std_b")
    }
    return edited_embedding(StoredParts(**arrays), edit, model_maps(model))


@settings(max_examples=15, deadline=None)
@given(config=shapes(), seed=st.integers(0, 1000), data=st.data())
def test_one_pass_gives_what_stored_parts_give(tmp_path_factory, config, seed, data):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    images, edit = random_images(model, seed, 3), an_edit(model, seed)
    wanted = by_parts(model, images, edit)
    np.testing.assert_allclose(EditedModel(model, edit)(images), wanted, **EXACT)
    # Maps of the edited embedding, and all that they leave out.
    layers = sorted(data.draw(st.sets(st.integers(0, model.layers - 1), min_size=1)))
    directions = unit_rows(6, model.embed_dim, seed).reshape(3, 2, -1)
    found = TokenMaps(model, layers, edit=edit)(images, directions)
    logit = np.einsum("bce,be->bc", directions, wanted)
    total = found.maps_bclht.sum((2, 3, 4)) + sum(found.rest.values())
    np.testing.assert_allclose(total, logit, **EXACT)
    np.testing.assert_allclose(found.logit_bc, logit, **EXACT)
    plain = TokenMaps(model, layers)(images, directions)
    gains = torch.from_numpy(edit.heads_lh[layers])[:, :, None]
    np.testing.assert_allclose(found.maps_bclht, plain.maps_bclht * gains, **EXACT)
    heads = [at for at in every_head(model, layers) if data.draw(st.booleans())]
    one = TokenMaps(model, layers, edit=edit)(images[:1], directions[:1])
    split = split_of(one, layers, heads or None)
    assert set(split.rest) == set(TERMS)
    np.testing.assert_allclose(split.residual_m, 0, atol=1e-10)


def test_gains_of_1_leave_everything_as_it_is(tmp_path):
    model = perturbed({"embed_dim": 8, "vision_cfg": VISION}, tmp_path, 1)
    images, some = random_images(model, 1, 2), an_edit(model, 1)
    edit = Edit(
        "none", model.weights_digest, np.ones_like(some.heads_lh), np.ones_like(some.blocks_s),
        np.ones_like(some.attention_bias_l), np.zeros(8),
    )  # fmt: skip
    with torch.inference_mode():
        embedding = model.module.encode_image(images, normalize=True)
    np.testing.assert_allclose(EditedModel(model, edit)(images), embedding, **EXACT)


VISION = {"patch_size": 4, "image_size": 8, "head_width": 4, "width": 8, "layers": 2}


def test_an_edit_of_another_model_is_refused(tmp_path):
    model = perturbed({"embed_dim": 8, "vision_cfg": VISION}, tmp_path, 1)
    edit = an_edit(model, 1)
    for make in (lambda e: EditedModel(model, e), lambda e: TokenMaps(model, [0], edit=e)):
        with pytest.raises(EditError, match="is of weights other, and the model .* is of"):
            make(replace(edit, weights="other"))
    with pytest.raises(EditError, match="of 2 heads and 7 axes, and the model .* of 2 and 8"):
        EditedModel(model, replace(edit, constant_e=np.zeros(7)))
    with pytest.raises(ValueError, match="gains are of centred contributions"):
        TokenMaps(model, [0], "equal-share", edit)
