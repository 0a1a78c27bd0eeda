"""Measures what a reward model gains by batching: responses per second one by one, a round at a time, and all at once.

A random transformer of a small reward model's shape scores responses of realistic length. The three ways take turns in
one process, so that the ratios hold on a busy machine too; their scores are compared, since a fast way must not be
wrong.

On a CPU, CPU seconds are measured, since other programs change them least; on an accelerator, the wall clock is.

    python benchmarks/reward_batching.py [--pairs 24] [--device auto] [--threads 1] [--clock]

The program exits with status 1 when the default of the device is not the better way, or a score is off by more than
0.1 % of the spread of scores. An accelerator waits for its own launches, so a round at a time (8 responses, which a
run scores together) must be at least 1.5 × as fast as one by one. A CPU is busy with one response, and padding is
work, so there one by one is the default; it is right as long as no batching is faster by a quarter.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fittest.evo.pretrained.device import torch_device
from fittest.fitness.rewards.classifier import ClassifierReward

WORDS = 8000
MEDIAN, SPREAD, LONGEST = 150, 0.7, 700
RESPONSES = 8
TURNS = 2

Pair = tuple[str, str]


def save_reward_model(folder: Path) -> None:
    """Save a model of 30 million random weights: 8 layers of width 512, and a tokenizer with one token per word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers: Any = import_module("transformers")
    vocabulary = {word: number for number, word in enumerate(["<pad>", *(f"w{i}" for i in range(1, WORDS))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)


def draw_pairs(count: int) -> list[Pair]:
    """Draws prompts of 10 to 40 tokens, and responses of log-normal lengths in groups of one prompt."""
    rng = random.Random(7)

    def text(length: int) -> str:
        return " ".join(f"w{rng.randrange(1, WORDS)}" for _ in range(length))

    prompts = [text(rng.randint(10, 40)) for _ in range(-(-count // RESPONSES))]
    lengths = [min(LONGEST, max(2, int(rng.lognormvariate(math.log(MEDIAN), SPREAD)))) for _ in range(count)]
    return [(prompts[number // RESPONSES], text(length)) for number, length in enumerate(lengths)]


def score(
    reward: ClassifierReward, pairs: Sequence[Pair], together: int, clock: Callable[[], float]
) -> tuple[list[float], float]:
    """Returns the scores, and the seconds, of calls with this number of responses each."""
    began, scores = clock(), []
    for start in range(0, len(pairs), together):
        prompts, responses = zip(*pairs[start : start + together], strict=True)
        scores += [float(found) for found in reward.score(prompts, responses)]  # type: ignore[arg-type]
    return scores, clock() - began


def main() -> None:
    """Measures, print, and exit with status 1 when the default is not the better way."""
    import torch

    parser = argparse.ArgumentParser(description="Speed of a batched reward model against pair by pair.")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--clock", action="store_true", help="measure a CPU by the clock too")
    options = parser.parse_args()
    pairs = draw_pairs(options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        save_reward_model(Path(folder))
        device = torch_device(options.device).type
        if device == "cpu":
            torch.set_num_threads(options.threads)
        ways = {"one by one": (1, 1)}
        ways |= {f"a round of {RESPONSES}, ≤ {most} tokens": (RESPONSES, most) for most in (1024, 8192)}
        ways |= {f"all at once, ≤ {most} tokens": (len(pairs), most) for most in (2048, 8192)}
        rewards = {
            most: ClassifierReward(model=folder, device=device, batch_tokens=most)
            for most in sorted({most for _, most in ways.values()})
        }
        clock = time.process_time if device == "cpu" and not options.clock else time.perf_counter
        for reward in rewards.values():
            score(reward, pairs[:2], 2, clock)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        scores: dict[str, list[float]] = {}
        for _ in range(TURNS):
            for name, (together, most) in ways.items():
                scores[name], taken = score(rewards[most], pairs, together, clock)
                seconds[name].append(taken)
    lengths = sorted(len(prompt.split()) + len(response.split()) for prompt, response in pairs)
    print(
        f"{len(pairs)} pairs of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(pairs) // 2]}, on {device}"
    )
    print(f"{'':<32} {'pairs/s':>8} {'ratio':>6} {'same bits':>10} {'largest difference':>19}")
    alone = scores["one by one"]
    spread = statistics.stdev(alone)
    ratios, errors = {}, {}
    for name in ways:
        # each way is compared with one by one in the same round; the median bears other programs that come and go
        ratio = statistics.median(a / b for a, b in zip(seconds["one by one"], seconds[name], strict=True))
        ratios[name] = ratio
        errors[name] = max(abs(a - b) for a, b in zip(alone, scores[name], strict=True)) / spread
        same = sum(a == b for a, b in zip(alone, scores[name], strict=True))
        speed = len(pairs) / min(seconds[name])
        print(f"{name:<32} {speed:8.1f} {ratio:6.2f} {same:5d} of {len(pairs)} {errors[name]:15.1e} sd")
    right = max(errors.values()) < 0.001
    batched = max(ratio for name, ratio in ratios.items() if name != "one by one")
    if device == "cpu":
        good = right and batched < 1.25
        verdict = "ok" if good else "NOT MET"
        print(f"the best batches: {batched:.2f} × one by one (the default), less than 1.25 wanted: {verdict}")
    else:
        of_a_run = ratios[f"a round of {RESPONSES}, ≤ 8192 tokens"]
        good = right and of_a_run >= 1.5
        print(f"a round at a time: {of_a_run:.2f} × one by one, at least 1.5 wanted: {'ok' if good else 'NOT MET'}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
