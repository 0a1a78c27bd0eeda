"""Training a judge on judgments that were right: SFT on the judgment's tokens alone, or DPO against wrong ones.

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
    """There is nothing to train a judge on."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a judge is trained.

    Attributes:
        method: `lora` trains an adapter on all linear layers, `full` all weights.
        objective: `sft`, or `dpo` with wrong judgments as the rejected ones.
        learning_rate: peak; it decays to a tenth, cosine. The paper's 1e-6 is for all weights of 70B.
        epochs: at most.
        patience: epochs without a better held-out accuracy after which training ends.
        batch_size: examples per step.
        rank: of the adapter; its scale is twice that.
        beta: of DPO.
        max_length: tokens of an example; longer ones are left out, never cut, and so are those that the model cannot
            read.
        seed: of batches and of the adapter's first weights.
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
    """Train from the seed model and write an adapter or model into a folder.

    Args:
        rows: as `annotation.training_rows` makes them, or `preference_rows` for DPO.
        seed_model: a folder, a GGUF file (dequantised) or a name on the hub.
        out: gets `adapter/` or `model/`, that of the epoch with the best held-out accuracy.
        settings: how.
        held_out: pairs by which training is stopped; without them every epoch is gone through.
        told: hears of each epoch.

    Returns:
        The settings, examples and steps, loss of each logging step, held-out accuracy of the seed and of each epoch.

    Raises:
        NothingToLearnError: no example is short enough.
        FittestError: trl and peft are not installed.
    """
    require_trl()
    from transformers import PrinterCallback

    tokenizer = load_pretrained("AutoTokenizer", seed_model)
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
        trainer.remove_callback(PrinterCallback)
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
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 0.05,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_checkpointing": False,
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "use_cpu": torch_device(settings.device).type == "cpu",
        "max_length": None,
        "dataloader_pin_memory": False,
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
    # said outright, although it is TRL's default for this form: the loss is on the judgment, never on the question
    return SFTTrainer(args=SFTConfig(completion_only_loss=True, **common), train_dataset=data, **parts)


def _tokens(tokenizer: Any, row: dict[str, Any]) -> int:
    """Tokens of the longest text of an example."""
    answers = [row[key] for key in ("completion", "chosen", "rejected") if key in row]
    return max(
        len(tokenizer(tokenizer.apply_chat_template(row["prompt"] + turns, tokenize=False)).input_ids)
        for turns in answers
    )


def _dtype(settings: TrainingSettings) -> Any:
    import torch

    return torch.float32 if torch_device(settings.device).type == "cpu" else torch.bfloat16


def require_trl() -> None:
    """Find out before anything is asked or loaded.

    Raises:
        FittestError: trl or peft is not installed.
    """
    missing = [name for name in ("trl", "peft") if find_spec(name) is None]
    if missing:
        raise FittestError(f'training a judge needs {" and ".join(missing)}: pip install "fittest[train]"')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the trainers' own notices and bars out of the way; what matters is in the figures that are returned."""
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
