"""Trains a judge on judgments that were right: by SFT on the judgment's tokens alone, or by DPO against wrong ones.

Every training starts from the seed model, whichever iteration it is (arXiv 2408.02666, section 3.4).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.device import torch_device
from fittest.evo.pretrained.loading import context_length, load_pretrained
from fittest.fitness.judge.best_epoch import ADAPTER, MODEL, BestEpoch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fittest.fitness.judge.pair import Pair


class NothingToLearnError(FittestError):
    """Reports that there is nothing to train a judge on."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Says how a judge is trained.

    Attributes:
        method: `lora` trains an adapter on all linear layers, `full` trains all weights.
        objective: `sft`, or `dpo` with wrong judgments as the rejected ones.
        learning_rate: the highest rate; it decays to a tenth along a cosine. The paper's 1e-6 is for all weights of a
            model of 70B.
        epochs: the most epochs.
        patience: epochs without a better held-out accuracy after which training ends.
        batch_size: examples per step.
        rank: the rank of the adapter; its scale is twice the rank.
        beta: the beta of DPO.
        max_length: the most tokens of an example. Longer ones, and those that the model cannot read, are left out and
            never cut, since the verdict is at the end.
        seed: the seed of batches and of the adapter's first weights.
        device: a torch device, or "auto".
    """

    method: Literal["lora", "full"] = "lora"
    objective: Literal["sft", "dpo"] = "sft"
    learning_rate: float = 1e-4
    epochs: int = 2
    patience: int = 1
    batch_size: int = 8
    rank: int = 16
    beta: float = 0.1
    max_length: int = 4096
    seed: int = 0
    device: str = "auto"


def train_judge(
    rows: Sequence[dict[str, Any]],
    *,
    seed_model: str | Path,
    out: Path,
    settings: TrainingSettings,
    held_out: Sequence[Pair] = (),
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Trains from the seed model, and writes an adapter or model into a folder.

    Args:
        rows: the rows of `annotation.training_rows`, or for DPO of `annotation.contrasting_rows`.
        seed_model: a folder, a GGUF file (dequantised) or a name on the hub.
        out: the folder; it gets `adapter/` or `model/`, from the epoch with the best held-out accuracy.
        settings: the settings of the training.
        held_out: pairs by which training is stopped; without any, all epochs are trained.
        told: called with one line of text after each epoch.

    Returns:
        The settings, the number of examples and steps, the loss of each logged step, and the held-out accuracy of the
        seed model and of each epoch.

    Raises:
        NothingToLearnError: no example is short enough.
        FittestError: trl or peft is not installed.
    """
    require_trl()
    from transformers import PrinterCallback

    tokenizer = load_pretrained("AutoTokenizer", seed_model)
    # many tokenizers have no padding token; the trainers mask padding, so any token serves
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    context = context_length(load_pretrained("AutoConfig", seed_model))
    longest = min(settings.max_length, context or settings.max_length)
    fitting = [row for row in rows if _tokens(tokenizer, row) <= longest]
    if not fitting:
        raise NothingToLearnError(f"nothing to train on: {len(rows)} examples, none of up to {longest} tokens")
    with _quiet():
        network = load_pretrained("AutoModelForCausalLM", seed_model, dtype=_dtype(settings))
        trainer = _trainer(network.to(torch_device(settings.device)), tokenizer, fitting, out, settings)
        target = out / (ADAPTER if settings.method == "lora" else MODEL)
        watch = BestEpoch(trainer, tokenizer, held_out, settings.patience, target, told)
        trainer.add_callback(watch.callback())
        trainer.remove_callback(PrinterCallback)  # it prints a dictionary for every step
        watch.measure(0)
        trainer.train()
        watch.keep_unless_kept()
    return {
        **asdict(settings),
        "examples": len(fitting),
        "too_long": len(rows) - len(fitting),
        "steps": trainer.state.global_step,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "held_out_accuracy": watch.accuracies,
        "best_epoch": watch.best_epoch,
    }


def _trainer(
    network: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], out: Path, settings: TrainingSettings
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig

    lora = LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    common: dict[str, Any] = {
        "output_dir": str(out / "trainer"),
        "learning_rate": settings.learning_rate,
        # a final rate of a tenth, as in the paper's released configuration
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 0.05,  # below 1 it is a share of all steps
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        # TRL turns these two on by default; small models need no memory saved, and `_dtype` chooses the precision
        "gradient_checkpointing": False,
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",  # BestEpoch saves
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "use_cpu": torch_device(settings.device).type == "cpu",
        "max_length": None,  # rows that are too long have been left out; TRL would cut off their verdict
        "dataloader_pin_memory": False,  # it warns where there is no GPU
    }
    parts: dict[str, Any] = {
        "model": network,
        "processing_class": tokenizer,
        "peft_config": lora if settings.method == "lora" else None,
    }
    if settings.objective == "dpo":
        from trl import DPOConfig, DPOTrainer

        data = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])
        return DPOTrainer(args=DPOConfig(beta=settings.beta, **common), train_dataset=data, **parts)
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows])
    # written out, although it is TRL's default for this form: the loss is on the judgment, never on the question
    return SFTTrainer(args=SFTConfig(completion_only_loss=True, **common), train_dataset=data, **parts)


def _tokens(tokenizer: Any, row: dict[str, Any]) -> int:
    """Counts the tokens of the longest text of an example."""
    answers = [row[key] for key in ("completion", "chosen", "rejected") if key in row]
    return max(
        len(tokenizer(tokenizer.apply_chat_template(row["prompt"] + turns, tokenize=False)).input_ids)
        for turns in answers
    )


def _dtype(settings: TrainingSettings) -> Any:
    import torch

    return torch.float32 if torch_device(settings.device).type == "cpu" else torch.bfloat16


def require_trl() -> None:
    """Checks that a judge can be trained here, before anything is asked for or loaded.

    Raises:
        FittestError: trl or peft is not installed.
    """
    missing = [name for name in ("trl", "peft") if find_spec(name) is None]
    if missing:
        raise FittestError(f'training a judge needs {" and ".join(missing)}: pip install "fittest[train]"')


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the trainers' own notices and bars; what matters is in the figures that are returned."""
    import datasets
    import transformers

    logging: Any = transformers.utils.logging
    verbosity = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        datasets.enable_progress_bars()
        if shown:
            logging.enable_progress_bar()
        logging.set_verbosity(verbosity)
