"""Stops a training early by held-out pairs: it decides which epoch is kept, and when the training ends."""

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

# the folder that a training leaves has one of these names, by its method
ADAPTER = "adapter"
MODEL = "model"


class BestEpoch:
    """Measures held-out accuracy after each epoch, keeps the best epoch's weights, and says when to stop.

    Args:
        trainer: the trainer of TRL, whose model is measured and saved.
        tokenizer: the model's tokenizer.
        held_out: pairs with a label; without any, every epoch is trained and the last one kept.
        patience: epochs without a better accuracy after which training ends.
        target: the folder that gets the weights.
        told: called with one line of text after each measurement.

    Attributes:
        accuracies: the held-out accuracy of the seed model and of each epoch, in per cent.
        best_epoch: the number of the epoch that is kept; 0 before there is one.
    """

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
        """Returns the callback of transformers that calls `measure` after each epoch."""
        # the class is made here, since its base needs transformers, which takes seconds to import
        from transformers import TrainerCallback

        watch = self

        class EachEpoch(TrainerCallback):
            def on_epoch_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
                control.should_training_stop = watch.measure(round(state.epoch)) or control.should_training_stop

        return EachEpoch()

    def measure(self, epoch: int) -> bool:
        """Measures an epoch and tells whether to stop; epoch 0 is the seed model, which is never kept."""
        if not self._held_out:
            return False
        found = _held_out_accuracy(self._trainer.model, self._tokenizer, self._held_out)
        self._told(f"epoch {epoch}: held-out accuracy {found:.1f} %")
        trained = self.accuracies[1:]  # the first is the seed's, which a trained epoch need not beat
        self.accuracies.append(found)
        if epoch and (not trained or found > max(trained)):
            self.best_epoch = epoch
            self._save()
        return epoch - self.best_epoch >= self._patience and epoch > 0

    def keep_unless_kept(self) -> None:
        """Keeps the last epoch if there are no held-out pairs to choose by."""
        if not self._held_out:
            self._save()

    def _save(self) -> None:
        # embeddings are not trained; left to find that out itself, peft would look for a GGUF model on the hub
        more = {}
        if self._target.name == ADAPTER:
            more["save_embedding_layers"] = False
            for config in self._trainer.model.peft_config.values():
                # peft holds a set, whose order, and so the file, would differ between runs
                config.target_modules = sorted(config.target_modules)
        self._trainer.model.save_pretrained(str(self._target), **more)
        self._tokenizer.save_pretrained(str(self._target))


def _held_out_accuracy(network: Any, tokenizer: Any, pairs: Sequence[Pair]) -> float:
    """Returns the accuracy in per cent, the mean of both orders, of the likelier verdict without reasoning."""
    # without reasoning it takes one forward pass for each order, so it is cheap enough for every epoch
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
