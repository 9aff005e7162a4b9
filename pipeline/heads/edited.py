"""A model with an edit applied, for pictures that no store holds: one pass, as without it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.extraction.decompose import Decomposer
from pipeline.models import VisionModel, model_maps

from .edits import Edit, refuse_other_model


class EditedModel:
    """Embeds pictures as an edit has it.

    Parameters
    ----------
    model : VisionModel
        From ``load_model`` or ``store_model``.
    edit : Edit
        Of this model.

    Raises
    ------
    EditError
        If it is of another model.
    """

    def __init__(self, model: VisionModel, edit: Edit) -> None:
        sizes = (model.layers, model.heads, model.embed_dim)
        refuse_other_model(edit, model.weights_digest, sizes, f"the model {model.name}")
        self._decompose = Decomposer(model)
        maps, self._wide = model_maps(model), model.wide
        loss_lh, self._loss_s = 1 - edit.heads_lh, self._tensor(1 - edit.blocks_s)
        # What is taken away goes through one matrix: its rows are those of heads with a loss.
        self._chosen = torch.from_numpy(loss_lh != 0).to(model.device)
        map_lhke = loss_lh[:, :, None, None] * maps.head_map
        self._head_map_xe = self._tensor(map_lhke[loss_lh != 0].reshape(-1, model.embed_dim))
        self._mlp_map_de = self._tensor(maps.mlp_map)
        losses_l = 1 - edit.attention_bias_l
        self._bias_e = self._tensor(losses_l @ maps.attention_bias)
        self._bias_map_le = (
            None if maps.bias_map is None else self._tensor(losses_l[:, None] * maps.bias_map)
        )
        self._constant_e = self._tensor(edit.constant_e)

    @torch.inference_mode()
    def __call__(self, images_bchw: Tensor) -> Tensor:
        """Edited embeddings of a batch, on the published scale, (batch, embed).

        That is, divided by the norm of the model's own embeddings: without any loss they have
        length 1, and products with unit embeddings of texts are the model's own cosines.

        Parameters
        ----------
        images_bchw : Tensor
            From ``Preprocess.to_tensor``, on the model's device.
        """
        parts = self._decompose(images_bchw)
        assert parts.heads_blhk is not None  # the decomposer's own components
        assert parts.mlps_bsd is not None
        norm_b1 = parts.embedding_be.norm(dim=1, keepdim=True)
        lost_be = (
            parts.heads_blhk[:, self._chosen].flatten(1) @ self._head_map_xe
            + torch.einsum("bsd,s->bd", parts.mlps_bsd, self._loss_s) @ self._mlp_map_de
            + self._bias_e
        )
        if self._bias_map_le is not None:
            assert parts.bias_weights_bl is not None  # whoever has the map has them
            lost_be = lost_be + parts.bias_weights_bl.to(lost_be) @ self._bias_map_le
        unit_be = parts.embedding_be / norm_b1
        found: Tensor = unit_be - lost_be / (parts.ln_std_b[:, None] * norm_b1) + self._constant_e
        return found

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(**self._wide)
