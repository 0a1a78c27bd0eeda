"""Early stopping on held-out pairs: which epoch of a training is kept, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.pretrained.loading import context_length
from fittest.fitness.judge.accuracy import accuracy
from fittest.fitness.judge.judging import conversation
from fittest.fitness.judge.likelihood import verdict_log_odds, verdicts_of
from fittest.fitness.judge.verdict import ORDERS

if TYPE_CHECKING:
    from fittest.fitness.judge.pair import Pair

ADAPTER = "adapter"
MODEL = "model"
"""Folders that a training leaves: one of them, by its method."""


class BestEpoch:
    """Measures held-out accuracy after each epoch, keeps the best epoch's weights, and says when to stop."""

    def __init__(
        self,
        trainer: Any,
        tokenizer: Any,
        held_out: Sequence[Pair],
        patience: int,
        target: Path,
        told: Callable[[str], None],
    ) -> None:
        self.accuracies: list[float] = []
        self.best_epoch = 0
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._held_out = held_out
        self._patience = patience
        self._target = target
        self._told = told

    def callback(self) -> Any:
        """What calls `measure` after each epoch of a trainer."""
        from transformers import TrainerCallback

        watch = self

        class EachEpoch(TrainerCallback):
            def on_epoch_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
                control.should_training_stop = watch.measure(round(state.epoch)) or control.should_training_stop

        return EachEpoch()

    def measure(self, epoch: int) -> bool:
        """Whether to stop after this epoch; epoch 0 is the seed, which is never kept."""
        if not self._held_out:
            return False
        found = held_out_accuracy(self._trainer.model, self._tokenizer, self._held_out)
        self._told(f"epoch {epoch}: held-out accuracy {found:.1f} %")
        trained = self.accuracies[1:]
        self.accuracies.append(found)
        if epoch and (not trained or found > max(trained)):
            self.best_epoch = epoch
            self._save()
        return epoch - self.best_epoch >= self._patience and epoch > 0

    def keep_unless_kept(self) -> None:
        """Without held-out pairs the last epoch is the one."""
        if not self._held_out:
            self._save()

    def _save(self) -> None:
        # embeddings are not trained; asked whether they were, peft would look for a GGUF model on the hub
        more = {}
        if self._target.name == ADAPTER:
            more["save_embedding_layers"] = False
            for config in self._trainer.model.peft_config.values():
                # a set, which would be written in another order each time
                config.target_modules = sorted(config.target_modules)
        self._trainer.model.save_pretrained(str(self._target), **more)
        self._tokenizer.save_pretrained(str(self._target))


def held_out_accuracy(network: Any, tokenizer: Any, pairs: Sequence[Pair]) -> float:
    """Pairwise accuracy in per cent, mean of both orders, by the likelier verdict and no reasoning."""
    training = network.training
    network.eval()
    context = context_length(network.config)
    verdicts = [
        verdicts_of(
            [verdict_log_odds(network, tokenizer, conversation(pair, order), context=context) for order in ORDERS]
        )
        for pair in pairs
    ]
    network.train(training)
    return float(accuracy(pairs, verdicts)["mean"] or 0.0)
