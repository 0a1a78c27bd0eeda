"""Reads the comparisons that the preference head is trained and tested on, and prepares what the head sees of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fittest.fitness.rewards.features import FEATURES, measure
from fittest.fitness.rewards.head import PreferenceHead, exact_dot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fittest.evo.protocols import Embedder

ASSISTANT = "\n\nAssistant:"
HUMAN = "\n\nHuman:"
# MiniLM reads about this many characters, and the answer replies to the end of a dialogue
TAIL = 1000


class Comparison(NamedTuple):
    """Holds two answers to one prompt, of which people preferred the first; a `group` never crosses a fold."""

    source: str
    group: str
    prompt: str
    chosen: str
    rejected: str


def last_turn(context: str) -> str:
    """Returns the last turn of the human."""
    return context.rpartition(HUMAN)[2].strip()


def human_turns(context: str) -> str:
    """Returns all turns of the human; a long text is cut at its beginning."""
    turns = [turn.partition(ASSISTANT)[0].strip() for turn in context.split(HUMAN)[1:]]
    return "\n".join(turns)[-TAIL:]


def dialogue(context: str) -> str:
    """Returns the dialogue so far; a long text is cut at its beginning."""
    return context.strip()[-TAIL:]


VIEWS: dict[str, Callable[[str], str]] = {
    "last human turn": last_turn,
    "all human turns": human_turns,
    "end of the dialogue": dialogue,
}


def read_dialogues(path: Path, view: Callable[[str], str]) -> list[Comparison]:
    """Reads the comparisons of an HH-RLHF file: two dialogues that differ only in the last answer."""
    comparisons = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            context, _, chosen = row["chosen"].rpartition(ASSISTANT)
            rejected = row["rejected"].rpartition(ASSISTANT)[2]
            first_turn = context.partition(ASSISTANT)[0]
            comparisons.append(Comparison(path.name, first_turn, view(context), chosen.strip(), rejected.strip()))
    return comparisons


def read_pandalm(path: Path) -> list[Comparison]:
    """Reads the comparisons of PandaLM on which a majority of the three votes prefers one answer."""
    comparisons = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers = {"A": row["response_a"], "B": row["response_b"]}
        if row["label"] in answers:
            chosen = answers.pop(row["label"])
            rejected = answers.popitem()[1]
            comparisons.append(Comparison(path.name, row["instruction"], row["instruction"], chosen, rejected))
    return comparisons


def within_context(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Returns the comparisons whose prompt and answers fit the head's context."""
    return [
        comparison
        for comparison in comparisons
        if max(len(comparison.prompt), len(comparison.chosen), len(comparison.rejected)) <= PreferenceHead.CONTEXT
    ]


def off_topic(comparisons: Sequence[Comparison], rng: np.random.Generator) -> list[Comparison]:
    """Compares every chosen answer with the chosen answer of another comparison."""
    order = rng.permutation(len(comparisons))
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [
        comparison._replace(rejected=comparisons[other[position]].chosen)
        for position, comparison in enumerate(comparisons)
    ]


def looped(comparisons: Sequence[Comparison], rng: np.random.Generator) -> list[Comparison]:
    """Compares every chosen answer with its first words repeated, as small models do; it has 30 words or more."""
    loops = []
    for comparison in comparisons:
        words = comparison.chosen.split(" ")
        opening = words[: rng.integers(4, 25)]
        length = max(len(words), 30)
        loop = " ".join((opening * length)[:length])
        loops.append(comparison._replace(rejected=loop[: PreferenceHead.CONTEXT]))
    return loops


class CachedEmbedder:
    """Keeps embeddings in a SQLite file, by text, so that a second run takes seconds.

    Args:
        embedder: makes the embeddings that are not in the file.
        folder: the folder of the files; there is one for each fingerprint.
    """

    quick = False

    def __init__(self, *, embedder: Embedder, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.fingerprint = embedder.fingerprint
        self.dimension = embedder.dimension
        self._embedder = embedder
        self._database = sqlite3.connect(folder / f"{embedder.fingerprint.replace(':', '-')}.sqlite")
        # waiting for the disk would cost more than embedding; what a crash loses is computed again
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE IF NOT EXISTS vectors (text TEXT PRIMARY KEY, vector BLOB)")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns embeddings, shape (len(texts), dimension)."""
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> NDArray[np.float32]:
        key = hashlib.sha256(text.encode()).hexdigest()
        known = self._database.execute("SELECT vector FROM vectors WHERE text = ?", (key,)).fetchone()
        if known:
            kept: NDArray[np.float32] = np.frombuffer(known[0], dtype=np.float32)
            return kept
        vector: NDArray[np.float32] = self._embedder.embed([text])[0]
        with self._database:
            self._database.execute("INSERT INTO vectors VALUES (?, ?)", (key, vector.tobytes()))
        return vector


class Answers(NamedTuple):
    """Holds what the head sees of one answer of each comparison: features, and the embeddings behind the relevance.

    The shapes are (comparisons, len(FEATURES)), and twice (comparisons, dimension).
    """

    features: NDArray[np.float64]
    prompt: NDArray[np.float32]
    response: NDArray[np.float32]


def measure_answers(prompts: Sequence[str], responses: Sequence[str], embedder: Embedder) -> Answers:
    """Computes features and embeddings of answers."""
    prompt, response = embedder.embed(prompts), embedder.embed(responses)
    features = np.empty((len(prompts), len(FEATURES)))
    for row, pair in enumerate(zip(prompts, responses, strict=True)):
        features[row] = measure(*pair, exact_dot(prompt[row], response[row]))
    return Answers(features, prompt, response)
