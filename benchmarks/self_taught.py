"""Measures whether a small model becomes a better judge by teaching itself, with real training on two CPU cores.

    python benchmarks/self_taught.py --out self-taught [--quick]

Instructions are drawn from the shared pool; the model makes one pair of answers for each (changed instruction, in two
steps), judges it 15 times, and is trained on a right judgment of each, from the seed model, for two iterations. A
judgment of at most 64 tokens that has no verdict is closed with `[[`, and A or B is drawn by the model's own odds.

The program prints for each iteration the share of judgments that agree, of unforced verdicts, the size of the training
set, and the accuracy on held-out synthetic pairs with the order effect. Then it prints, for the seed and the last
iteration, accuracy by likelihood in both orders on LLMBar, PandaLM without ties and HH-RLHF, and, for the seed alone
under llama.cpp, how many judgments of up to 256 tokens reach a verdict by themselves. The journal keeps everything:
called again on the same --out it goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import polars as pl

from fittest.fitness.judge.accuracy import Figures, accuracy
from fittest.fitness.judge.likelihood import TransformersVerdicts
from fittest.fitness.judge.pair import Pair
from fittest.runs.asking import journal_at
from fittest.runs.config.engine import LlamaCppSection
from fittest.runs.config.section import checked
from fittest.runs.judge.config import JudgeConfig
from fittest.runs.judge.eval import Judged
from fittest.runs.judge.judges import transformers_engine
from fittest.runs.judge.pairs import make_pairs
from fittest.runs.judge.train import iterate
from fittest.runs.models import find_model, weights_of
from fittest.runs.output.atomic import write_json
from fittest.runs.sources.instructions import Instruction
from fittest.runs.sources.pair_file import read_pairs

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {
    "LLMBar": "llmbar.jsonl",
    "PandaLM": "pandalm.jsonl",
    "HH-RLHF": "hh_rlhf_helpful-base_test.jsonl.gz",
}
LONGEST = 1_500
"""Most characters of instruction and answers together; judging a longer pair once would take ten seconds."""

TEMPERATURE = 0.7


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=SHARED_DATA, show_default=False)
@click.option("--out", type=click.Path(path_type=Path), default=Path("self-taught"), show_default=True)
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--iterations", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--quick", is_flag=True, help="10 instructions, 6 judgments of 24 tokens, 10 pairs of each set.")
def main(data: Path, out: Path, model: str, iterations: int, seed: int, quick: bool) -> None:
    """Run the loop, print the figures, and write them to figures.json."""
    began = time.monotonic()
    out = out / ("quick" if quick else "whole")
    instructions, measured, unconstrained = (10, 10, 2) if quick else (40, 100, 20)
    config = settings(model, iterations, seed, quick=quick)
    writer = writing(config, find_model(model), tokens=64 if quick else 256)
    made = make_pairs(
        drawn_instructions(data, instructions, seed),
        writer,
        out / "pairs",
        variant="modified-in-two-steps",
        held_out=0.25,
    )
    print(f"{made['pairs']} pairs to train on, {made['held_out']} held out; left out: {made['rejected'] or 'none'}")
    pairs, held_out = (read_pairs(out / "pairs" / f"{name}.jsonl").pairs for name in ("pairs", "held_out"))
    found = iterate(pairs, held_out, config, out / "judge", force=True)
    for number, figures in enumerate(found["held_out"]):
        print(f"{'seed' if number == 0 else f'iteration {number}'}, held-out synthetic pairs: {in_words(figures)}")
    for row in found["iterations"]:
        agreed, trained = row["agreement"], row["training"]
        print(
            f"iteration {agreed['iteration']}: {agreed['agreement']:.1%} of {agreed['judgments']} judgments agree,"
            f" {agreed['unforced']:.1%} unforced; trained on {trained['examples']} in {trained['steps']} steps"
        )
    if found["ended"]:
        print(found["ended"])
    last = f"iteration-{len(found['iterations'])}"
    judges = {"seed": config, last: with_adapter(config, out / "judge" / last / "adapter")}
    results: dict[str, dict[str, Figures]] = {name: {} for name in SETS}
    with journal_at(out / "journal.sqlite") as journal:
        for name, file in SETS.items():
            sample = drawn_pairs(read_pairs(data / "judging" / file).pairs, measured, seed)
            for judge, own in judges.items():
                verdicts = TransformersVerdicts(transformers_engine(own.engine))
                results[name][judge] = accuracy(sample, Judged.by_likelihood(sample, verdicts, journal).verdicts)
                print(f"{name}, {judge}, likelihood: {in_words(results[name][judge])}")
            few = sample[:unconstrained]
            results[name]["seed, unconstrained"] = accuracy(few, Judged.by_engine(few, writer, journal).verdicts)
            print(f"{name}, seed, unconstrained: {in_words(results[name]['seed, unconstrained'])}")
    settled = {**config.model_dump(mode="json", exclude_none=True), "longest": LONGEST, "quick": quick}
    write_json(out / "figures.json", {"settings": settled, "pairs": made, "training": found, "judging": results})
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in this session")


def settings(model: str, iterations: int, seed: int, *, quick: bool) -> JudgeConfig:
    """Returns the judge's configuration."""
    sampling = {"temperature": TEMPERATURE, "top_p": 0.9}
    tables = {
        "judge": {
            "seed": seed,
            "samples": 6 if quick else 15,
            "sampling": {**sampling, "max_tokens": 24 if quick else 64},
        },
        "answers": {"sampling": {**sampling, "max_tokens": 48 if quick else 128}},
        # these are larger than the defaults, since an epoch of two dozen examples has only a few steps
        "train": {
            "iterations": iterations,
            "batch_size": 4,
            "epochs": 1 if quick else 3,
            "patience": 2,
            "learning_rate": 5e-4,
        },
        "engine": {
            "kind": "transformers",
            "model": weights_of(model),
            "slots": 15,
            "samples_per_request": 15,
            "device": "cpu",
        },
    }
    return checked(JudgeConfig, tables, name="benchmark")


def writing(config: JudgeConfig, model: str, *, tokens: int) -> JudgeConfig:
    """Returns the configuration for long replies; a GGUF file runs under llama.cpp, which answers many at once.

    Args:
        config: the judge's configuration.
        model: the path of the model.
        tokens: the most tokens of an unconstrained judgment.
    """
    judge = config.judge.model_copy(
        update={"sampling": config.judge.sampling.model_copy(update={"max_tokens": tokens})}
    )
    engine = config.engine
    if model.endswith(".gguf"):
        engine = LlamaCppSection(model=model, slots=12)
    return config.model_copy(update={"engine": engine, "judge": judge})


def with_adapter(config: JudgeConfig, adapter: Path) -> JudgeConfig:
    """Returns the configuration with a trained judge."""
    return config.model_copy(update={"engine": config.engine.model_copy(update={"adapter": str(adapter)})})


def drawn_instructions(data: Path, count: int, seed: int) -> list[Instruction]:
    """Draws instructions of 20 to 300 characters from the shared pool, by seed."""
    pool = pl.read_parquet(data / "prompts" / "human_prompts.parquet")
    pool = pool.filter(pl.col("prompt").str.len_chars().is_between(20, 300))
    rows = np.random.default_rng(seed).choice(pool.height, size=count, replace=False)
    return [Instruction(prompt) for prompt in pool["prompt"].gather(sorted(rows.tolist())).to_list()]


def drawn_pairs(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Draws pairs of at most `LONGEST` characters, by seed."""
    short = [pair for pair in pairs if len(pair.instruction + pair.response_a + pair.response_b) <= LONGEST]
    rows = np.random.default_rng(seed).choice(len(short), size=min(count, len(short)), replace=False)
    return [short[place] for place in sorted(rows.tolist())]


def in_words(figures: Figures | None) -> str:
    """Describes accuracy; `chose first` differs from 50 by the order effect, which `orders averaged` takes out."""
    if figures is None:
        return "none"
    first = "–" if figures["chose_first"] is None else f"{figures['chose_first']:.0f}"
    averaged = ""
    if "averaged" in figures:
        low, high = figures["averaged_low"], figures["averaged_high"]
        averaged = f", orders averaged {figures['averaged']:.1f} ({low:.1f} to {high:.1f})"
    return (
        f"AB {figures['ab']:.1f}, BA {figures['ba']:.1f}, mean {figures['mean']:.1f}"
        f" ({figures['mean_low']:.1f} to {figures['mean_high']:.1f}), both {figures['consistent']:.1f}{averaged} %;"
        f" chose first {first} %; without a verdict {figures['unread_ab']} and {figures['unread_ba']}"
        f" of {figures['n']}"
    )


if __name__ == "__main__":
    main()
