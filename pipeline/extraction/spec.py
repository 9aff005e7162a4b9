"""What decides a store, told from what the user asked for: no weights, no images, no arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.models.checkpoint import WEIGHT_SUFFIXES
from pipeline.models.names import parse
from pipeline.models.spec import Architecture, ModelSpec, check_supported
from pipeline.provenance import revision, versions
from storage.metadata import Metadata, require_same
from storage.records import config_digest

from .components import refuse_absent
from .plan import parse_layers


@dataclass(frozen=True)
class StoreSpec:
    """What the user asked a store to hold.

    Attributes
    ----------
    images : str
        Where they are: see ``pipeline.images.sources``.
    model : ModelSpec
    components : tuple of str
        Of `COMPONENTS`.
    layers : str
        Layers that tokens are summed over.
    precision, store_dtype : str
        Of the forward pass; of heads, mlps and tokens as they are kept.
    shard_size : int
        Images in one shard.
    limit : int or None
        Only so many images of the list.
    """

    images: str
    model: ModelSpec
    components: tuple[str, ...]
    layers: str
    precision: str
    store_dtype: str
    shard_size: int
    limit: int | None = None

    @property
    def weights(self) -> str:
        """The weights' name, as the store's metadata has it."""
        if self.model.pretrained == "none":
            return f"none:{self.model.seed}"
        return self.model.pretrained.rsplit("/", 1)[-1]

    def metadata(
        self,
        architecture: Architecture,
        *,
        images: int,
        image_list_digest: str = "",
        weights_digest: str = "",
    ) -> Metadata:
        """The identity of the store; without digests, of one that is only planned.

        Raises
        ------
        FacetError
            If the model has no such components.
        """
        refuse_absent(self.model.model, architecture, self.components)
        tokens = "tokens" in self.components
        return Metadata(
            architecture=self.model.model,
            architecture_digest=config_digest(architecture.config),
            weights=self.weights,
            weights_digest=weights_digest,
            activation=architecture.activation,
            preprocessing=architecture.preprocess.identity(),
            precision=self.precision,
            store_dtype=self.store_dtype,
            components=tuple(sorted(set(self.components))),
            token_layers=parse_layers(self.layers, architecture.layers) if tokens else (),
            image_list_digest=image_list_digest,
            images=images,
            shard_size=self.shard_size,
            layers=architecture.layers,
            heads=architecture.heads,
            head_dim=architecture.head_dim,
            width=architecture.width,
            mlp_width=architecture.mlp_width,
            embed=architecture.embed_dim,
            tokens=architecture.tokens,
            grid=architecture.grid,
            prefix=architecture.prefix,
            reading=architecture.reading,
            varying_bias=architecture.varying_bias,
            trunk_layers=architecture.trunk_layers,
            trunk_mlp_width=architecture.trunk_mlp_width,
            source=self.images,
            versions=versions(),
            revision=revision(),
        )


def refuse_other_settings(url: str, existing: Metadata, spec: StoreSpec) -> None:
    """Refuse a store of other settings than those that are asked for, before anything is loaded.

    Which images are meant, and what a weights file holds, is not known yet.
    """
    asked = spec.metadata(
        check_supported(spec.model),
        images=existing.images,
        image_list_digest=existing.image_list_digest,
        weights_digest=existing.weights_digest,
    )
    if all(meta.weights.endswith(WEIGHT_SUFFIXES) for meta in (existing, asked)):
        asked = replace(asked, weights=existing.weights)
    require_same(existing, asked, url)


def refuse_other_model(
    url: str, existing: Metadata, model: str | None, pretrained: str | None
) -> None:
    """Refuse a store of another model than the one asked for, before anything is loaded.

    Parameters
    ----------
    url : str
    existing : Metadata
        Of the store.
    model, pretrained : str or None
        As asked for; None: whatever the store has. A file says only once it is loaded whether it
        holds the store's weights.
    """
    asked = existing
    if model is not None:
        name = parse(model)
        if pretrained and name.weights:
            ModelSpec.of(model, pretrained)  # refuses what contradicts itself
        pretrained = pretrained or name.weights or None
        weights = pretrained or existing.weights
        named = not weights.startswith("none:") and not weights.endswith(WEIGHT_SUFFIXES)
        # What a tag decides of how timm's models are built is known by its name.
        found = check_supported(ModelSpec(name.spelled, weights if named else "none"))
        asked = replace(
            asked, architecture=name.spelled, architecture_digest=config_digest(found.config)
        )
    if pretrained is not None and not pretrained.endswith(WEIGHT_SUFFIXES):
        same = pretrained == "none" and existing.weights.startswith("none:")
        asked = replace(asked, weights=existing.weights if same else pretrained)
    require_same(existing, asked, url)
