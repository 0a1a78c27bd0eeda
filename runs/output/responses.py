"""Writes responses/NNNN.parquet, which holds every response of a generation, without holding all of them in memory."""

from __future__ import annotations

import secrets
import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import polars as pl

from fittest.runs.output.atomic import Sealing, write_parquet, write_parquet_in_pieces

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Response

RESPONSE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String, "sample": pl.Int64, "response": pl.String, "reasoning": pl.String, "reward": pl.Float64,
    "reward_id": pl.String, "length": pl.Int64, "finish_reason": pl.String, "truncated": pl.Boolean,
    "prompt_tokens": pl.Int64, "completion_tokens": pl.Int64, "engine": pl.String,
}  # fmt: skip
"""The columns of responses/NNNN.parquet."""

_Table = int | Literal["retest"]
"""A table holds the responses of a generation, or those of the re-test."""

_CHARACTERS_IN_MEMORY = 2 * 2**20
"""A generation with more text goes to disk in parts of this size, which is small: each thread of polars holds some."""


class _Row(NamedTuple):
    """Holds one response, with the place and the identity of its prompt, and the reward that judged it."""

    slot: int
    prompt_id: str
    reward_id: str
    response: Response


class _Part(NamedTuple):
    """Names a file with responses, and the first and the last slot that it has responses of."""

    path: Path
    first: int
    last: int


@dataclass
class _Draft:
    """Holds the responses of a generation that is under way.

    Attributes:
        rows: the responses that are in memory.
        characters: how much text they hold.
        sizes: how much text there is of each slot, in memory and in the parts.
        parts: the files that hold the other responses, in the order in which prompts were evaluated.
        responses: how many there are, in memory and in the parts.
    """

    rows: list[_Row] = field(default_factory=list)
    characters: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    parts: list[_Part] = field(default_factory=list)
    responses: int = 0


class ResponseBook:
    """Takes the responses of each prompt as it is evaluated, and writes those of a generation in order.

    Args:
        folder: the run's folder for responses.
        engine: the fingerprint of the engine that answers.
        length_unit: counts the length of a response.
        sealed: the generations whose tables an earlier session has written; they are left as they are.
        metadata: texts to store in the metadata of each file, by key.
        record: keeps the hash of a table by its name in the folder of the run, before the file gets its name.
        audited: whether responses have the reward of an audit, which is one more column then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: str,
        length_unit: Callable[[str], int],
        sealed: Collection[int] = (),
        metadata: Mapping[str, str] | None = None,
        record: Callable[[str, str], None] | None = None,
        audited: bool = False,
    ) -> None:
        self._schema = RESPONSE_SCHEMA | ({"audit_reward": pl.Float64} if audited else {})
        self._record = record
        self._folder = folder
        self._engine = engine
        self._length_unit = length_unit
        self._sealed = frozenset(sealed)
        self._metadata = metadata
        self._drafts: dict[_Table, _Draft] = {}
        for left_by_a_kill in folder.parent.glob(".responses-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        # a name of its own: an earlier session in this process may be cleared away while this one is at work
        self._spool = folder.with_name(f".responses-{secrets.token_hex(4)}")
        # a session may end in the middle of a generation, which the next session draws again from the journal
        weakref.finalize(self, shutil.rmtree, self._spool, ignore_errors=True)

    def take(
        self,
        prompt: Prompt,
        responses: Sequence[Response],
        reward_id: str,
        *,
        table: _Table | None = None,
        slot: int | None = None,
    ) -> None:
        """Takes over the responses of one draw of a prompt, after those of its earlier draws.

        Args:
            prompt: an evaluated prompt.
            responses: the responses, ordered by sample.
            reward_id: the fingerprint of the reward that judged them.
            table: the table that they belong to; None for that of the prompt's generation.
            slot: the place of the prompt in that table; None for its place in its generation.
        """
        table = prompt.birth.generation if table is None else table
        slot = prompt.birth.slot if slot is None else slot
        # an evaluate of a user's own need not draw any
        if table in self._sealed or not responses:
            return
        draft = self._drafts.setdefault(table, _Draft())
        size = sum(_size(response) for response in responses)
        draft.rows += [_Row(slot, prompt.id, reward_id, response) for response in responses]
        draft.sizes[slot] = draft.sizes.get(slot, 0) + size
        draft.responses += len(responses)
        draft.characters += size
        if draft.characters >= _CHARACTERS_IN_MEMORY:
            self._write_part(draft, table)

    def seal(self, table: _Table) -> None:
        """Writes the table of a finished generation, or of the re-test, sorted by slot and sample."""
        if table in self._sealed:
            return
        draft, path = self._drafts.pop(table, _Draft()), self._path(table)
        if not draft.parts:
            frame = self._frame(draft.rows).drop("slot")
            write_parquet(path, frame, metadata=self._metadata, sealing=self._sealing(path))
            return
        self._write_part(draft, table)
        rows = max(1, draft.responses * _CHARACTERS_IN_MEMORY // sum(draft.sizes.values()))
        write_parquet_in_pieces(
            path, _sorted(draft), schema=self._schema, row_group_size=rows, metadata=self._metadata,
            sealing=self._sealing(path),
        )  # fmt: skip
        for part in draft.parts:
            part.path.unlink()
        # the folder would stay until Python ends; parts of a later generation keep it
        with suppress(OSError):
            self._spool.rmdir()

    def read(self, generation: int, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
        """Returns some rows of a sealed table by prompt_id and sample, without reading the texts of the others."""
        identity = pl.concat_str("prompt_id", "sample", separator="/")
        rows = (
            pl.scan_parquet(self._path(generation), glob=False)
            .filter(identity.is_in([f"{prompt_id}/{sample}" for prompt_id, sample in sorted(wanted)]))
            .collect()
        )
        return {(row["prompt_id"], row["sample"]): row for row in rows.iter_rows(named=True)}

    def _sealing(self, path: Path) -> Sealing | None:
        return None if self._record is None else partial(self._record, f"{self._folder.name}/{path.name}")

    def _path(self, table: _Table) -> Path:
        return self._folder / f"{_name(table)}.parquet"

    def _write_part(self, draft: _Draft, table: _Table) -> None:
        if not draft.rows:
            return
        slots = [row.slot for row in draft.rows]
        path = self._spool / f"{_name(table)}-{len(draft.parts):06d}.parquet"
        write_parquet(path, self._frame(draft.rows))
        draft.parts.append(_Part(path, min(slots), max(slots)))
        draft.rows, draft.characters = [], 0

    def _frame(self, rows: Sequence[_Row]) -> pl.DataFrame:
        responses = [row.response for row in rows]
        texts = pl.Series([response.text for response in responses], dtype=pl.String)
        columns = {
            "slot": [row.slot for row in rows],
            "prompt_id": [row.prompt_id for row in rows],
            "sample": [response.sample for response in responses],
            "response": texts,
            "reasoning": [response.reasoning for response in responses],
            "reward": [response.reward for response in responses],
            "reward_id": [row.reward_id for row in rows],
            "length": self._lengths(texts),
            "finish_reason": [response.finish_reason for response in responses],
            "truncated": [response.truncated for response in responses],
            "prompt_tokens": [response.prompt_tokens for response in responses],
            "completion_tokens": [response.completion_tokens for response in responses],
            "engine": [self._engine] * len(rows),
        }
        if "audit_reward" in self._schema:
            columns["audit_reward"] = [
                response.audit if isinstance(response.audit, float) else None for response in responses
            ]
        # prompts come in the order in which they were answered, but the samples of each are in order
        return pl.DataFrame(columns, schema={"slot": pl.Int64, **self._schema}).sort("slot", maintain_order=True)

    def _lengths(self, texts: pl.Series) -> pl.Series:
        # polars counts characters of all texts at once; any other unit is a Python function
        if self._length_unit is len:
            return texts.str.len_chars().cast(pl.Int64)
        return pl.Series([None if text is None else self._length_unit(text) for text in texts], dtype=pl.Int64)


def _name(table: _Table) -> str:
    return f"{table:04d}" if isinstance(table, int) else table


def _size(response: Response) -> int:
    return len(response.text or "") + len(response.reasoning or "")


def _sorted(draft: _Draft) -> Iterator[pl.DataFrame]:
    """Yields the rows of all parts in order, a few slots at a time."""
    for first, last in _stretches(draft.sizes):
        # a part holds prompts that were answered one after another, so that few parts hold any of these
        parts = [part.path for part in draft.parts if part.first <= last and part.last >= first]
        rows = pl.scan_parquet(parts, glob=False).filter(pl.col("slot").is_between(first, last))
        yield rows.collect().sort("slot", maintain_order=True).drop("slot")


def _stretches(sizes: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Yields the first and last slot of stretches that fit into memory; together they hold all slots."""
    first, characters, last = -1, 0, -1
    for last in sorted(sizes):
        characters += sizes[last]
        if characters >= _CHARACTERS_IN_MEMORY:
            yield first, last
            first, characters = last + 1, 0
    if first <= last:
        yield first, last


@dataclass
class ResponseCounts:
    """Counts responses, so that what is said of them needs none of them in memory.

    Attributes:
        drawn: all of them.
        answered: those whose sampling did not fail.
        truncated: those of them that were cut at `max_tokens`.
        rewarded: those that have a reward.
        reasoned: those whose reasoning is known; where a service hides it, it is empty.
        cut_before_reasoning: answers that were cut at `max_tokens` and have no reasoning.
        missing: why the others have none.
    """

    drawn: int = 0
    answered: int = 0
    truncated: int = 0
    rewarded: int = 0
    reasoned: int = 0
    cut_before_reasoning: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def count(self, responses: Sequence[Response]) -> None:
        """Counts the responses of one prompt."""
        self.drawn += len(responses)
        for response in responses:
            self.answered += response.text is not None
            self.truncated += response.truncated and response.text is not None
            self.rewarded += response.reward is not None
            self.reasoned += bool(response.reasoning)
            self.cut_before_reasoning += response.truncated and response.reasoning is None
            if response.missing is not None:
                self.missing[response.missing] += 1

    def __add__(self, other: ResponseCounts) -> ResponseCounts:
        return ResponseCounts(
            self.drawn + other.drawn,
            self.answered + other.answered,
            self.truncated + other.truncated,
            self.rewarded + other.rewarded,
            self.reasoned + other.reasoned,
            self.cut_before_reasoning + other.cut_before_reasoning,
            self.missing + other.missing,
        )
