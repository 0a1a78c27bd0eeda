"""Knows the embedded models, keeps them in a cache, and fetches them."""

from fittest.runs.models.cache import ModelState, available, cache_folder, find_model, local_path, verify
from fittest.runs.models.fetch import pull
from fittest.runs.models.registry import MODELS, EmbeddedModel, ModelFile
from fittest.runs.models.safetensors import weights_of

__all__ = [
    "MODELS",
    "EmbeddedModel",
    "ModelFile",
    "ModelState",
    "available",
    "cache_folder",
    "find_model",
    "local_path",
    "pull",
    "verify",
    "weights_of",
]
