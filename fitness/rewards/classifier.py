"""Provides a Hugging Face reward model: any sequence classifier that gives one number for a chat."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.chats import markup_of, with_sane_template, written
from fittest.evo.pretrained.device import torch_device
from fittest.evo.pretrained.fingerprints import listed_digest
from fittest.evo.pretrained.reachable import offline_without_hub
from fittest.evo.records import Missing
from fittest.fitness.rewards.batches import length_batches, padded

if TYPE_CHECKING:
    from torch import Tensor

_AUTO_CLASS = "AutoModelForSequenceClassification"

# on an accelerator a pass of one response is mostly waiting (docs/design/rewards.md)
_BATCH_TOKENS = 8192
_LONGEST_PROBE = 16

# tokenizers without a limit report 10**30
_SANE_CONTEXT = 10**9


class ClassifierReward:
    """Gives the score of a reward model; the responses of one call share forward passes, sorted by length.

    The other members of a batch change the last bits of a score, so responses of different calls never share one. In
    a run, a call holds one prompt's new responses: what is scored together follows from the run and not from the
    clock. The model is tried out first: if it scores a response differently in a padded batch than alone, it gets one
    response at a time. A response that is longer, with its prompt, than the model's context is never truncated; its
    reward is missing. The model is loaded on first use.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: a torch device, or "auto", which prefers an accelerator.
        dtype: "float32", "bfloat16" or "float16"; "auto" is float32 on a CPU and the checkpoint's own elsewhere.
        batch_tokens: the most tokens of a forward pass, padding included. 1 scores one response at a time. 0 chooses:
            1 on a CPU, which one response keeps busy (benchmarks/reward_batching.py), 8192 elsewhere.
        trust_remote_code: whether the model's own code may run; ArmoRM needs it.

    Raises:
        FittestError: the folder does not exist, or transformers is not installed.
    """

    quick = False

    def __init__(
        self,
        *,
        model: str,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        folder = Path(model).expanduser()
        if not folder.is_dir() and _is_path(model):
            raise FittestError(f"reward.model: no folder at {folder}")
        if find_spec("transformers") is None:
            raise FittestError('reward.kind = "classifier" needs transformers: pip install "fittest[embedded]"')
        self.model = model
        self.device = device
        self.dtype = dtype
        self.batch_tokens = batch_tokens
        self.trust_remote_code = trust_remote_code
        self._folder = folder if folder.is_dir() else None

    @cached_property
    def fingerprint(self) -> str:
        """Joins `classifier:` and name@commit on the hub, or 16 hex digits over all that a folder's scores depend on.

        A precision other than float32 is appended, since scores in bfloat16 differ in the second digit.
        """
        if self._folder is None:
            weights = f"{self.model}@{self._config_file.parent.name}"
        else:
            weights = _folder_digest(self._folder)[:16]
        return f"classifier:{weights}" + ("" if self._precision == "float32" else f":{self._precision}")

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Returns rewards in the order of the responses."""
        with _quiet():
            rows = [self._tokens(*texts) for texts in zip(prompts, responses, strict=True)]
            context = self._loaded.context
            fitting = [number for number, row in enumerate(rows) if context is None or len(row) <= context]
            most = self._most_tokens() if self._loaded.takes_batches else 1
            found: dict[int, float] = {}
            for batch in length_batches([len(rows[number]) for number in fitting], most):
                numbers = [fitting[index] for index in batch]
                found |= zip(numbers, self._forward([rows[number] for number in numbers]), strict=True)
        return [
            found[number]
            if number in found
            else Missing(f"pair of {len(row)} tokens is longer than the reward model's {context}")
            for number, row in enumerate(rows)
        ]

    def _most_tokens(self) -> int:
        return self.batch_tokens or (1 if self._loaded.network.device.type == "cpu" else _BATCH_TOKENS)

    def _tokens(self, prompt: str, response: str) -> list[int]:
        tokenizer = self._loaded.tokenizer
        markup = markup_of(tokenizer)
        chat = [
            {"role": "user", "content": markup.defused(prompt)},
            {"role": "assistant", "content": markup.defused(response)},
        ]
        # tokenised by the template itself: a tokenizer called on rendered text would put a second BOS before it
        return list(written(tokenizer, chat, return_dict=True)["input_ids"])

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        scores = self._loaded.scores(rows)
        if isinstance(scores, list):
            return scores
        raise FittestError(
            f"reward.model: {self.model} gives {scores} labels and no score; expected a reward model with one label,"
            " or one whose output has a score of its own"
        )

    @cached_property
    def _precision(self) -> str:
        """Returns the name of the dtype that the network is loaded in."""
        # torch takes seconds to import, so it is only asked where the answer depends on the device
        if self.dtype != "auto":
            return self.dtype
        if self.device == "cpu" or torch_device(self.device).type == "cpu":
            return "float32"
        config = self._config
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")

    @cached_property
    def _loaded(self) -> _Loaded:
        import torch

        transformers: Any = import_module("transformers")
        self._check_config()
        device = torch_device(self.device)
        source: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        # weights that are a pickle can hold code as well
        weights = {} if self.trust_remote_code else {"use_safetensors": True}
        if self._folder is None:
            # the commit that the fingerprint names, even if the model changes on the hub in between
            source["revision"] = self._config_file.parent.name
        name = str(self._folder or self.model)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
            network, report = getattr(transformers, _AUTO_CLASS).from_pretrained(
                name, **source, **weights, dtype=getattr(torch, self._precision), output_loading_info=True
            )
        except Exception as error:  # whatever it is, it comes from the files of the model
            raise FittestError(
                f"reward.model: {self.model} cannot be loaded as a sequence classification model: {_line(error)}"
            ) from None
        if report["missing_keys"]:
            # transformers fills missing weights with random numbers, and only warns
            raise FittestError(
                f"reward.model: {self.model} is not a sequence classification model: its weights lack"
                f" {', '.join(sorted(report['missing_keys'])[:3])}"
            )
        if not tokenizer.chat_template:
            raise FittestError(f"reward.model: the tokenizer of {self.model} has no chat template")
        with_sane_template(tokenizer, self.model)
        return _Loaded(tokenizer, network.to(device).eval(), _context(network.config, tokenizer))

    def _check_config(self) -> None:
        """Refuses a model with code of its own in one line, which transformers would do in many."""
        if _AUTO_CLASS in self._config.get("auto_map", {}) and not self.trust_remote_code:
            raise FittestError(
                f"reward.model: {self.model} brings code of its own; if you trust it, set trust_remote_code = true"
            )

    @cached_property
    def _config(self) -> dict[str, Any]:
        path = self._config_file
        if not path.is_file():
            raise FittestError(f"{path}: not found; expected the config.json of a sequence classification model")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise FittestError(f"{path}: not readable as JSON: {_line(error)}") from None
        if not isinstance(found, dict) or not isinstance(found.get("auto_map", {}), dict):
            raise FittestError(f"{path}: expected the table of a model's settings")
        return found

    @cached_property
    def _config_file(self) -> Path:
        """Finds the model's config.json, in its folder or in the hub's cache, whose folder is named by the commit."""
        if self._folder is not None:
            return self._folder / "config.json"
        from huggingface_hub import hf_hub_download

        try:
            with offline_without_hub():
                return Path(hf_hub_download(self.model, "config.json"))
        except Exception as error:  # a connection that breaks raises an error of whichever library talks HTTP
            raise FittestError(
                f"reward.model: {self.model} is neither a folder here nor a model that the hub gives: {_line(error)}"
            ) from None


@dataclass(frozen=True)
class _Loaded:
    """Holds tokenizer, network, and the most tokens of a prompt with its response (None: no bound)."""

    tokenizer: Any
    network: Any
    context: int | None

    def scores(self, rows: Sequence[Sequence[int]]) -> list[float] | int:
        """Returns the score of each row, from one forward pass; if the output holds none, its number of labels."""
        import torch

        config = self.network.config.get_text_config()
        own_padding = config.pad_token_id
        # transformers takes the last token that is not padding for the end of a row, so without a padding token of
        # its own a model gets one that ends no row
        padding = own_padding if own_padding is not None else _none_of({row[-1] for row in rows})
        ids, mask = (part.to(self.network.device) for part in padded(rows, padding))
        config.pad_token_id = own_padding if len(rows) == 1 else padding
        try:
            with torch.inference_mode():
                output = self.network(input_ids=ids, attention_mask=mask)
        finally:
            # the padding token differs between batches, and a single row is scored without any
            config.pad_token_id = own_padding
        for read in _READERS.values():
            scores = read(output, len(rows))
            if scores is not None:
                return [float(score) for score in scores.float().tolist()]
        return int(getattr(getattr(output, "logits", None), "shape", (0, 0))[-1])

    @cached_property
    def takes_batches(self) -> bool:
        """Tells whether rows of different lengths score together as alone; a model's own code may read padding."""
        import torch

        longest = min(_LONGEST_PROBE, self.context or _LONGEST_PROBE)
        # any tokens will do, but the first few are often special ones
        rows = [[token % 7 + 3 for token in range(length)] for length in range(longest, 0, -5)]
        try:
            together, alone = self.scores(rows), [self.scores([row]) for row in rows]
        except (IndexError, RuntimeError, ValueError):
            return False
        if isinstance(together, int):
            return False
        exact = [score[0] for score in alone if isinstance(score, list)]
        # a score that was read from the padding is wrong by as much as scores differ, while half precision errs by
        # some hundredths
        error = 0.1 if self.network.dtype in (torch.float16, torch.bfloat16) else 0.001
        most = error * max(map(abs, exact))
        return all(abs(score - right) <= most for score, right in zip(together, exact, strict=True))


def _own_score(output: object, rows: int) -> Tensor | None:
    """Reads the output as ArmoRM writes it: it carries a score of its own, made from several objectives."""
    return _one_each(getattr(output, "score", None), rows)


def _only_logit(output: object, rows: int) -> Tensor | None:
    """Reads the output as Skywork's models write it: there is one label, and its logit is the reward."""
    return _one_each(getattr(output, "logits", None), rows)


_READERS: Mapping[str, Callable[[object, int], Tensor | None]] = {"score": _own_score, "logit": _only_logit}
"""A reader takes the rewards of a number of rows from a model's output; the first that finds them is used."""


def _one_each(values: Tensor | None, rows: int) -> Tensor | None:
    return values.flatten() if values is not None and values.numel() == rows else None


def _none_of(tokens: Collection[int]) -> int:
    """Returns the first token that is not among these."""
    return next(token for token in count() if token not in tokens)


def _context(config: Any, tokenizer: Any) -> int | None:
    """Returns the smaller of the limits of network and tokenizer."""
    limits = (getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length)
    return min((int(limit) for limit in limits if limit and 0 < limit < _SANE_CONTEXT), default=None)


def _is_path(model: str) -> bool:
    """Tells whether a name is written as a path; "owner/name" may be either."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def _folder_digest(folder: Path) -> str:
    """Returns the SHA-256 over name, size and content of the weights and of every file that says how they are run."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise FittestError(f"{folder}: no *.safetensors found; expected the folder of a reward model")
    others = (path for suffix in ("json", "jinja", "model", "py", "txt") for path in folder.glob(f"*.{suffix}"))
    return listed_digest(sorted({*weights, *others}))


def _line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' notes and loading bars out of the run's own display; what matters is raised."""
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
