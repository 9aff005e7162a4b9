"""What is wrong with a model that was asked for."""

from storage.errors import FacetError


class ModelError(FacetError):
    """A model, a tag or a weights file is unknown, damaged, or at odds with the rest."""


class UnknownModel(ModelError):
    """No library has a model of that name."""


class UnsupportedModel(ModelError):
    """The model is known, but its output is not the linear tail that is decomposed here."""
