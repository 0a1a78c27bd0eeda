"""Runs the loop of the self-taught evaluator: each iteration's judge annotates what the next one learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.backends.transformers import Transformers
from fittest.evo.errors import FittestError
from fittest.evo.pretrained.loading import load_pretrained
from fittest.fitness.judge.accuracy import Figures, accuracy
from fittest.fitness.judge.best_epoch import ADAPTER, MODEL
from fittest.fitness.judge.gguf_adapter import convert_adapter
from fittest.fitness.judge.judging import wording_id
from fittest.fitness.judge.likelihood import TransformersVerdicts
from fittest.fitness.judge.training import NothingToLearnError, TrainingSettings, require_trl, train_judge
from fittest.runs.asking import journal_at
from fittest.runs.judge.annotate import annotate, summary_line
from fittest.runs.judge.eval import Judged
from fittest.runs.judge.judges import transformers_engine, transformers_section
from fittest.runs.judge.training_file import training_rows_of
from fittest.runs.output.atomic import write_json
from fittest.runs.output.folder import differences
from fittest.runs.output.places import claimed
from fittest.runs.output.together import remove, replaced_together
from fittest.runs.terminal import tell

if TYPE_CHECKING:
    from fittest.fitness.judge.pair import Pair
    from fittest.runs.config.engine import EngineSection
    from fittest.runs.judge.config import JudgeConfig
    from fittest.runs.output.held import Held
    from fittest.runs.output.journal import SqliteJournal


_TRAINING = "training.json"
"""Says what a training did; it appears together with the adapter or the model."""

_GGUF = "adapter.gguf"

_TRAINER = "trainer"
"""A folder that TRL makes for checkpoints, of which there are none."""


def iterate(
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    config: JudgeConfig,
    out: Path,
    *,
    force: bool = False,
    gguf: bool = False,
    inputs: Iterable[Path] = (),
) -> dict[str, Any]:
    """Annotates, train from the seed model, and measure; repeat this as often as configured.

    Each iteration has a folder with train.jsonl, preferences.jsonl, judgments.parquet, agreement.json, `adapter/` or
    `model/`, and training.json, which appear together. A finished iteration is not repeated. The method is that of
    Self-Taught Evaluators (arXiv 2408.02666).

    Args:
        pairs: the pairs with their labels; every iteration uses the same.
        held_out: pairs that stop training early and measure each iteration; may be empty.
        config: names the seed model as its engine, and everything else.
        out: the folder; its journal keeps every judgment.
        force: whether to draw a verdict for each judgment that has none.
        gguf: whether to write each adapter also as adapter.gguf, for llama.cpp.
        inputs: the files that the pairs are from, which are not replaced.

    Returns:
        The content of summary.json: agreement, examples and held-out accuracy of each iteration, the best iteration,
        and the reason if there are fewer iterations than configured.

    Raises:
        NothingToLearnError: the first iteration leaves nothing to train on; a later one only ends the loop.
        FittestError: the folder was begun with other pairs or settings.
    """
    seed_engine = _seed_engine(config, gguf)
    # now, and not after the hours of annotating that come before the first training
    require_trl()
    facts = _facts(pairs, held_out, config, seed_engine.fingerprint, force)
    with claimed(out, "judge train", inputs=inputs) as claim:
        _same_as_before(out, facts)
        with journal_at(out / "journal.sqlite", claim.held) as journal:
            rounds: list[dict[str, Any]] = []
            judge = seed_engine
            measured = [_measured(judge, held_out, journal, config.judge.seed)]
            ended = None
            for number in range(1, config.train.iterations + 1):
                folder = out / f"iteration-{number}"
                # an iteration that was killed has no training.json, and is repeated from the journal
                if not (folder / _TRAINING).is_file():
                    try:
                        _one_round(pairs, held_out, config, folder, judge, journal, number, force, claim.held)
                    except NothingToLearnError as error:
                        if not rounds:
                            raise
                        ended = f"iteration {number}: {error}"
                        tell(f"{ended}; the judge stays that of iteration {number - 1}")
                        break
                if gguf:
                    _convert(folder, seed_engine.model)
                rounds.append(_read(folder))
                judge = _judge_of(config.engine, folder)
                measured.append(_measured(judge, held_out, journal, config.judge.seed))
        summary = {"iterations": rounds, "held_out": measured, "best_iteration": _best(measured), "ended": ended}
        claim.held.check()
        write_json(out / "summary.json", summary)
    return summary


def train_once(
    annotated: Path,
    held_out: Sequence[Pair],
    config: JudgeConfig,
    out: Path,
    *,
    gguf: bool = False,
    inputs: Iterable[Path] = (),
) -> dict[str, Any]:
    """Trains the seed model once on existing judgments; writes the files of `train_judge`, and training.json.

    Args:
        annotated: train.jsonl, or preferences.jsonl for DPO, as `annotate` writes them.
        held_out: pairs that stop training early; may be empty.
        config: names the seed model as its engine, and says how to train it.
        out: the folder.
        gguf: whether to write the adapter also as adapter.gguf.
        inputs: other files that are read, which are not replaced.

    Returns:
        The content of training.json.

    Raises:
        FittestError: the file does not exist, or it lacks what the objective needs.
    """
    seed_engine = _seed_engine(config, gguf)
    rows = training_rows_of(annotated, config.train.objective)
    with claimed(out, "judge train", inputs=[annotated, *inputs]) as claim:
        return _train(rows, seed_engine.model, held_out, config, out, claim.held, gguf=gguf)


def _train(
    rows: list[dict[str, Any]],
    seed_model: str | Path,
    held_out: Sequence[Pair],
    config: JudgeConfig,
    out: Path,
    held: Held,
    *,
    gguf: bool = False,
) -> dict[str, Any]:
    # what an earlier training left stays until this one is finished; its adapter.gguf would be taken for this one's
    with replaced_together(out, without=[ADAPTER, MODEL, _GGUF, _TRAINER]) as new, _weights_written(out):
        trained = train_judge(
            rows,
            seed_model=seed_model,
            out=new,
            settings=_training_settings(config),
            held_out=held_out,
            told=tell,
        )
        remove(new / _TRAINER)
        write_json(new / _TRAINING, trained)
        if gguf:
            _convert(new, seed_model)
        held.check()
    return trained


@contextmanager
def _weights_written(out: Path) -> Iterator[None]:
    """Turns what the file system says while weights are saved into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise FittestError(f"cannot write the trained weights to {out}: {str(error).partition(chr(10))[0]}") from error


def _one_round(
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    config: JudgeConfig,
    folder: Path,
    judge: Transformers,
    journal: SqliteJournal,
    number: int,
    force: bool,
    held: Held,
) -> None:
    forcing = TransformersVerdicts(judge) if force else None
    found = annotate(pairs, config, folder, engine=judge, journal=journal, forcing=forcing, iteration=number)
    tell(summary_line(found))
    if not found["trained_on"]:
        raise NothingToLearnError(_why_nothing(found, force))
    name = "preferences.jsonl" if config.train.objective == "dpo" else "train.jsonl"
    rows = training_rows_of(folder / name, config.train.objective)
    seed_engine = _seed_engine(config, gguf=False)
    _train(rows, seed_engine.model, held_out, config, folder, held)


def _why_nothing(found: dict[str, Any], force: bool) -> str:
    """Says why no judgment is left, and what the user can do about it."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in found["dropped"].items() if count)
    advice = "; --force draws verdicts for judgments that came to none" if not force and found["unforced"] < 1 else ""
    return f"none of {found['pairs']} pairs is left to train on ({reasons}){advice}"


def _seed_engine(config: JudgeConfig, gguf: bool) -> Transformers:
    section = transformers_section(config.engine)
    if section.adapter is not None:
        raise FittestError(
            "engine.adapter: every iteration is trained from the bare seed model; leave the adapter out"
        )
    if gguf and config.train.method != "lora":
        raise FittestError(f'--gguf converts adapters; train.method = "{config.train.method}" writes none')
    return transformers_engine(section)


def _training_settings(config: JudgeConfig) -> TrainingSettings:
    chosen = config.train.model_dump(exclude={"iterations"})
    return TrainingSettings(**chosen, seed=config.judge.seed, device=transformers_section(config.engine).device)


def _convert(folder: Path, seed_model: str | Path) -> None:
    """Writes adapter.gguf if it does not exist yet; a kill leaves the whole file or none."""
    file = folder / _GGUF
    if not file.is_file():
        # under its own name an unfinished file would count as converted when the command is called again
        unfinished = folder / f"{_GGUF}.part"
        convert_adapter(folder / ADAPTER, load_pretrained("AutoConfig", seed_model), unfinished)
        unfinished.replace(file)


def _judge_of(engine: EngineSection, folder: Path) -> Transformers:
    """Returns the judge that an iteration trained."""
    model, adapter = folder / MODEL, folder / ADAPTER
    changes = {"model": str(model)} if model.is_dir() else {"adapter": str(adapter)}
    return transformers_engine(engine.model_copy(update=changes))


def _measured(judge: Transformers, held_out: Sequence[Pair], journal: SqliteJournal, seed: int) -> Figures | None:
    """Measures the held-out accuracy by verdict probabilities; returns None if nothing is held out."""
    if not held_out:
        return None
    return accuracy(held_out, Judged.by_likelihood(held_out, TransformersVerdicts(judge), journal).verdicts, seed=seed)


def _best(measured: Sequence[Figures | None]) -> int | None:
    """Returns the iteration with the best held-out mean, or None if nothing is held out; 0 is the seed.

    Of equal means the earliest iteration is taken, since it has had fewer chances to overfit.
    """
    means = [float(figures["mean"] or 0.0) for figures in measured if figures is not None]
    return means.index(max(means)) if means else None


def _read(folder: Path) -> dict[str, Any]:
    parts = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("agreement", "training")]
    return {"agreement": parts[0], "training": parts[1]}


def _facts(
    pairs: Sequence[Pair], held_out: Sequence[Pair], config: JudgeConfig, engine: str, force: bool
) -> dict[str, Any]:
    """Returns what the results depend on."""
    sections = config.model_dump(mode="json", exclude_none=True)
    tables = {name: sections[name] for name in ("judge", "train")}
    # more iterations may be added later, and votes are not used in training
    del tables["train"]["iterations"], tables["judge"]["votes"]
    named = {"pairs": pairs, "held_out": held_out}
    digests = {
        name: hashlib.sha256("".join(f"{pair.pair_id}{pair.label}" for pair in rows).encode()).hexdigest()[:16]
        for name, rows in named.items()
    }
    return {**tables, "fingerprints": {"engine": engine, "wording": wording_id(), **digests}, "force": force}


def _same_as_before(out: Path, facts: dict[str, Any]) -> None:
    file = out / "settings.json"
    if file.is_file():
        changed = differences(json.loads(file.read_text(encoding="utf-8")), facts)
        if changed:
            raise FittestError(f"{out} was begun otherwise: {'; '.join(changed)}. Choose another --out")
    write_json(file, facts)
