"""Reads the cells in a row of a file of pairs: texts, chats, dialogues, labels and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fittest.evo.errors import FittestError
from fittest.fitness.judge.verdict import Side
from fittest.runs.sources.pool_columns import shown_cell, without_lone_surrogates
from fittest.runs.sources.table import Row

_TURN = "\n\nAssistant:"
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True, slots=True)
class PairRow:
    """Reads the cells of one row; a `column` is the name of a cell.

    Attributes:
        cells: the row of the file.
        where: names the row in messages.
    """

    cells: Row
    where: str

    def text(self, column: str) -> str:
        """Returns the text in a cell, or the last turn of a chat in it.

        Args:
            column: the cell's column.

        Raises:
            FittestError: the cell holds neither a text nor a chat.
        """
        cell = self.cells.get(column)
        if isinstance(cell, list) and cell and isinstance(cell[-1], dict):
            cell = cell[-1].get("content")
        if isinstance(cell, str):
            return without_lone_surrogates(cell)
        raise FittestError(f"{self.where}: {column} is {str(cell)[:40]!r}; it should be text")

    def question(self, column: str) -> str:
        """Returns the text in a cell, or all turns of a chat in it, each after the name of its speaker.

        A chat of a single turn is returned without the speaker's name.

        Args:
            column: the cell's column.

        Raises:
            FittestError: the cell holds neither a text nor a chat.
        """
        cell = self.cells.get(column)
        if not isinstance(cell, list) or len(cell) < 2:
            return self.text(column)
        said = []
        for turn in cell:
            role, content = (turn.get(key) if isinstance(turn, dict) else None for key in ("role", "content"))
            if not isinstance(role, str) or not isinstance(content, str):
                raise FittestError(f"{self.where}: {column}: expected turns, each with role and content")
            said.append(f"{_SPEAKERS.get(role, role)}: {without_lone_surrogates(content)}")
        return "\n\n".join(said)

    def three_texts(self, instruction: str, first: str, second: str) -> tuple[str, str, str]:
        """Returns an instruction and the two answers to it, from the columns with these names."""
        return self.question(instruction), self.text(first), self.text(second)

    def dialogue(self, column: str) -> tuple[str, str]:
        """Returns a dialogue without its last answer, and that answer.

        Args:
            column: the cell's column.

        Raises:
            FittestError: the cell holds no dialogue, or one without an answer.
        """
        cell = self.cells.get(column)
        if isinstance(cell, list) and len(cell) > 1:
            return PairRow({column: cell[:-1]}, self.where).question(column), self.text(column)
        asked, found, answer = self.text(column).rpartition(_TURN)
        if not found:
            raise FittestError(
                f"{self.where}: holds no answer; a dialogue should end in a turn that begins with Assistant:"
            )
        return asked, answer

    def first_turns(self, column: str, turns: int) -> tuple[str, str]:
        """Returns the questions and the answers of the first exchanges of a conversation, as one text each.

        If there are several exchanges, the parts are numbered, and an empty line separates them.

        Args:
            column: the column of the conversation, a list of chat turns, each with `role` and `content`.
            turns: the number of exchanges; an exchange is a turn of the user and one of the assistant.

        Raises:
            FittestError: the conversation is shorter, or it is no list of turns.
        """
        cell = self.cells.get(column)
        said = cell if isinstance(cell, list) else []
        questions, answers = (
            [
                text
                for turn in said
                if isinstance(turn, dict) and turn.get("role") == role and (text := turn.get("content"))
            ]
            for role in ("user", "assistant")
        )
        if min(len(questions), len(answers)) < turns:
            raise FittestError(
                f"{self.where}: {column}: expected {turns} turns of user and assistant, each with role and content"
            )
        return _numbered(questions[:turns]), _numbered(answers[:turns])

    @property
    def subset(self) -> str:
        """Returns the subset that the row names, or "" if it names none."""
        name = self.cells.get("subset")
        return name if isinstance(name, str) else ""

    def recorded_side(self, column: str) -> Side | None:
        """Returns a verdict that is recorded as in LLMBar, "Output (a)", or as a single letter; None for others."""
        letter = re.fullmatch(r"(?:Output )?\(?([ab])\)?", str(self.cells[column]).strip(), re.IGNORECASE)
        return None if letter is None else "A" if letter[1].lower() == "a" else "B"

    def whole_number(self, column: str, default: int) -> int:
        """Returns a whole number of at least 1, which may be written as text.

        Args:
            column: the cell's column.
            default: is returned if the row has no such cell.

        Raises:
            FittestError: the cell is no such number.
        """
        cell = self.cells.get(column, default)
        # int() refuses thousands of digits, and no conversation has a thousand million exchanges
        if not re.fullmatch(r"[1-9]\d{0,8}", str(cell)):
            raise FittestError(f"{self.where}: {column} is {shown_cell(cell)}; it should be a whole number from 1 on")
        return int(str(cell))

    def number(self, column: str) -> float:
        """Returns a finite number.

        Args:
            column: the cell's column.

        Raises:
            FittestError: the cell is no finite number.
        """
        cell = self.cells.get(column)
        try:
            # Python counts True and False as integers, but a rating is neither
            number = math.nan if isinstance(cell, bool) or not isinstance(cell, (int, float)) else float(cell)
        except OverflowError:  # JSON knows integers of any size
            number = math.inf
        if not math.isfinite(number):
            raise FittestError(f"{self.where}: {column} is {shown_cell(cell)}; it should be a number")
        return number

    def side(self, column: str, cell: object, known: Mapping[str, Side | None]) -> Side | None:
        """Returns the side that a value stands for.

        Args:
            column: the column that holds the value, for the message.
            cell: the value.
            known: the known values, as text, and what each stands for; None is a tie.

        Raises:
            FittestError: the value is not known.
        """
        if str(cell) not in known:
            raise FittestError(
                f"{self.where}: {column} is {shown_cell(cell)}; it should be {', '.join(filter(None, known))}"
            )
        return known[str(cell)]


def _numbered(texts: Sequence[object]) -> str:
    whole = [without_lone_surrogates(str(text)) for text in texts]
    return whole[0] if len(whole) == 1 else "\n\n".join(f"({number}) {text}" for number, text in enumerate(whole, 1))
