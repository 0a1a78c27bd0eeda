"""A Hugging Face reward model: any sequence classifier that gives one number for a chat of prompt and response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo.errors import FittestError
from evo.neighbours import torch_device
from evo.records import Missing

if TYPE_CHECKING:
    from torch import Tensor

AUTO_CLASS = "AutoModelForSequenceClassification"

# tokenizers that know no limit say 10**30
_SANE_CONTEXT = 10**9


class ClassifierReward:
    """The score of a reward model, one forward pass for each pair.

    Pairs are never batched: padding changes the last bits of a score, so that it would depend on its company. A pair
    longer than the model's context is missing, never truncated. The model is loaded on first use, in its checkpoint's
    own precision on an accelerator and in float32 on a CPU.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: a torch device, or "auto" for the accelerator when there is one.
        trust_remote_code: whether the model's own code may run; ArmoRM needs it.

    Raises:
        FittestError: the folder or transformers is not there.
    """

    quick = False

    def __init__(self, *, model: str, device: str = "auto", trust_remote_code: bool = False) -> None:
        folder = Path(model).expanduser()
        if not folder.is_dir() and _is_path(model):
            raise FittestError(f"reward.model: no folder at {folder}")
        if find_spec("transformers") is None:
            raise FittestError('reward.kind = "classifier" needs transformers: pip install "fittest[embedded]"')
        self.model = model
        self.device = device
        self.trust_remote_code = trust_remote_code
        self._folder = folder if folder.is_dir() else None

    @cached_property
    def fingerprint(self) -> str:
        """`classifier:` and name@commit on the hub, or 16 hex digits over all that a folder's scores depend on."""
        if self._folder is None:
            return f"classifier:{self.model}@{self._hub_config.parent.name}"
        return f"classifier:{_folder_digest(self._folder)[:16]}"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Rewards in the order of the pairs; each depends on its own pair alone."""
        with _quiet():
            return [self._score_pair(*pair) for pair in zip(prompts, responses, strict=True)]

    def _score_pair(self, prompt: str, response: str) -> float | Missing:
        import torch

        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        # tokenised by the template itself: a tokenizer called on rendered text would put a second BOS before it
        tokens = self._loaded.tokenizer.apply_chat_template(chat, return_dict=True, return_tensors="pt")
        count, context = tokens["input_ids"].shape[1], self._loaded.context
        if context is not None and count > context:
            return Missing(f"pair of {count} tokens is longer than the reward model's {context}")
        device = self._loaded.network.device
        with torch.inference_mode():
            output = self._loaded.network(
                input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
            )
        return self._reward(output)

    def _reward(self, output: object) -> float:
        for adapter in ADAPTERS.values():
            reward = adapter(output)
            if reward is not None:
                return float(reward)
        labels = getattr(getattr(output, "logits", None), "shape", (0, 0))[-1]
        raise FittestError(
            f"reward.model: {self.model} gives {labels} labels and no score; expected a reward model with one label,"
            " or one whose output has a score of its own"
        )

    @cached_property
    def _loaded(self) -> _Loaded:
        import torch

        transformers: Any = import_module("transformers")
        self._check_config()
        device = torch_device(self.device)
        precision = torch.float32 if device.type == "cpu" else "auto"
        source: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self._folder is None:
            source["revision"] = self._hub_config.parent.name
        name = str(self._folder or self.model)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
            network, report = getattr(transformers, AUTO_CLASS).from_pretrained(
                name, **source, dtype=precision, output_loading_info=True
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise FittestError(
                f"reward.model: {self.model} cannot be loaded as a sequence classification model: {_line(error)}"
            ) from None
        if report["missing_keys"]:
            # transformers would go on with random numbers in their place
            raise FittestError(
                f"reward.model: {self.model} is not a sequence classification model: its weights lack"
                f" {', '.join(sorted(report['missing_keys'])[:3])}"
            )
        if not tokenizer.chat_template:
            raise FittestError(f"reward.model: the tokenizer of {self.model} has no chat template")
        return _Loaded(tokenizer, network.to(device).eval(), _context(network.config, tokenizer))

    def _check_config(self) -> None:
        """Refuse what loading would turn into a long story, or into a model with a random head."""
        path = self._hub_config if self._folder is None else self._folder / "config.json"
        if not path.is_file():
            raise FittestError(f"{path}: not found; expected the config.json of a sequence classification model")
        if (
            AUTO_CLASS in json.loads(path.read_text(encoding="utf-8")).get("auto_map", {})
            and not self.trust_remote_code
        ):
            raise FittestError(
                f"reward.model: {self.model} brings code of its own; if you trust it, set trust_remote_code = true"
            )

    @cached_property
    def _hub_config(self) -> Path:
        """The model's config.json in the hub's cache, whose folder is named for the commit."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.model, "config.json"))
        except (OSError, ValueError) as error:
            raise FittestError(
                f"reward.model: {self.model} is neither a folder here nor a model that the hub gives: {_line(error)}"
            ) from None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Tokenizer, network, and the tokens that one pair may have (None: no bound)."""

    tokenizer: Any
    network: Any
    context: int | None


def own_score(output: object) -> Tensor | None:
    """ArmoRM's way: the output carries a score of its own, made from several objectives."""
    return _single(getattr(output, "score", None))


def only_logit(output: object) -> Tensor | None:
    """Skywork's way: there is one label, and its logit is the reward."""
    return _single(getattr(output, "logits", None))


ADAPTERS: Mapping[str, Callable[[object], Tensor | None]] = {"score": own_score, "logit": only_logit}
"""Ways to read the reward of one pair from a model's output; the first that finds one is taken."""


def _single(values: Tensor | None) -> Tensor | None:
    return values.flatten()[0] if values is not None and values.numel() == 1 else None


def _context(config: Any, tokenizer: Any) -> int | None:
    """The smaller of what the network and what the tokenizer allow."""
    limits = (getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length)
    return min((int(limit) for limit in limits if limit and 0 < limit < _SANE_CONTEXT), default=None)


def _is_path(model: str) -> bool:
    """Whether a name is written as a path; "owner/name" may be either."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def _folder_digest(folder: Path) -> str:
    """SHA-256 over name, size and content of the weights and of every file that says how they are run."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise FittestError(f"{folder}: no *.safetensors found; expected the folder of a reward model")
    others = (path for suffix in ("json", "jinja", "model", "py", "txt") for path in folder.glob(f"*.{suffix}"))
    digest = hashlib.sha256()
    for path in sorted({*weights, *others}):
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' notes and loading bars out of the run's own display; what matters is raised."""
    # imported by name, as an untyped module: its functions carry no annotations
    logging: Any = import_module("transformers.utils.logging")
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
