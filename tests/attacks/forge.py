"""Forges files that no honest program writes: bombs, pipes, damaged tables, twins of columns, odd encodings."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import polars as pl

ROWS = [{"prompt": f"What is {n} and why?", "response": f"answer {k}", "reward": k * 0.5 + n}
        for n in range(6) for k in range(4)]  # fmt: skip
"""An honest table of responses, from which the odd files are made."""

Forger = Callable[[Path], Path]


def honest(folder: Path, kind: str = "jsonl") -> Path:
    """Writes the honest table in a format."""
    path = folder / f"honest.{kind}"
    frame = pl.DataFrame(ROWS)
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "csv":
        frame.write_csv(path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


def _file(name: str, content: bytes | str) -> Forger:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def _json(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _gzip_bomb(name: str, line: bytes, mib: int) -> Forger:
    def write(folder: Path) -> Path:
        path = folder / name
        block = line * ((1 << 20) // len(line))
        # members one after another are one text: a large bomb is made of one small piece
        path.write_bytes(gzip.compress(block * 8) * (mib // 8))
        return path

    return write


def _parquet(name: str, make: Callable[[], pl.DataFrame], *, level: int = 3) -> Forger:
    def write(folder: Path) -> Path:
        path = folder / name
        make().write_parquet(path, compression="zstd", compression_level=level, statistics=False)
        return path

    return write


def _one_text_for_all_rows() -> pl.DataFrame:
    # 8 MiB that 3,000 rows share: 24 GB for whoever reads the rows, a few KiB on the disk
    text = pl.Series(["x" * (8 << 20)], dtype=pl.Categorical).new_from_index(0, 3_000)
    return pl.DataFrame({"prompt": text, "response": text, "reward": [1.0] * 3_000})


def _nothing_but_rows() -> pl.DataFrame:
    rows = 5_000_000
    return pl.select(pl.repeat(None, rows, dtype=pl.String).alias("prompt"),
                     pl.repeat(None, rows, dtype=pl.String).alias("response"),
                     pl.repeat(1.0, rows).alias("reward"))  # fmt: skip


def _with_footer(change: Callable[[bytearray], bytearray]) -> Forger:
    """Forges a Parquet file by changing the bytes of its footer."""

    def write(folder: Path) -> Path:
        content = honest(folder, "parquet").read_bytes()
        size = struct.unpack("<I", content[-8:-4])[0]
        footer = change(bytearray(content[-8 - size : -8]))
        path = folder / "footer.parquet"
        path.write_bytes(content[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1")
        return path

    return write


def _billions(footer: bytearray) -> bytearray:
    # the number of rows is a varint, zigzag: 24 is 0x30, and ten thousand million is five bytes
    claimed = bytes([0x80, 0x90, 0xDF, 0xC0, 0x4A])
    assert footer.count(bytes([0x16, 0x30])), "the footer has no such field"
    return footer.replace(bytes([0x16, 0x30]), bytes([0x16]) + claimed)


def damaged_parquet(folder: Path, seed: int) -> Path:
    """Damages a few bytes of a Parquet file, most of them in its footer, where Polars panics most."""
    draw = random.Random(seed)
    content = bytearray(honest(folder, "parquet").read_bytes())
    footer = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    for _ in range(draw.choice([1, 1, 2, 4, 8])):
        place = draw.randrange(footer, len(content) - 8) if draw.random() < 0.7 else draw.randrange(4, footer)
        if draw.random() < 0.3:
            # a long varint: a length or a count of astronomical size
            for step in range(draw.choice([2, 5, 9])):
                content[min(place + step, len(content) - 9)] = 0xFF
        else:
            content[place] = draw.randrange(256)
    path = folder / f"damaged-{seed}.parquet"
    path.write_bytes(content)
    return path


def _fifo(folder: Path) -> Path:
    path = folder / "pipe.jsonl"
    os.mkfifo(path)
    return path


def _socket(folder: Path) -> Path:
    path = folder / "socket.jsonl"
    with socket.socket(socket.AF_UNIX) as server:
        place = os.getcwd()  # noqa: PTH109 - the name of a socket may have 107 bytes, so it is bound from inside
        os.chdir(folder)
        try:
            server.bind(path.name)
        finally:
            os.chdir(place)
    return path


def _link(name: str, target: str | Path) -> Forger:
    def write(folder: Path) -> Path:
        path = folder / name
        path.symlink_to(target)
        return path

    return write


def _folder(folder: Path) -> Path:
    path = folder / "folder.jsonl"
    path.mkdir()
    return path


def _truncated(kind: str, share: float) -> Forger:
    def write(folder: Path) -> Path:
        content = honest(folder, kind).read_bytes()
        path = folder / f"truncated.{kind}"
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return write


def _columns_that_differ_in_case() -> pl.DataFrame:
    return pl.DataFrame(ROWS).with_columns(Reward=pl.lit(1.0))


_LONG = 50 << 20
_LINE = b'{"prompt": "%s", "response": "b", "reward": 1}\n' % (b"a" * 2000)
_CSV = "prompt,response,reward\n"

ODD: dict[str, Forger] = {
    # bombs
    "gzip bomb, one line": _gzip_bomb("line.jsonl.gz", b"x", 2048),
    "gzip bomb, many lines": _gzip_bomb("lines.jsonl.gz", _LINE, 2048),
    "gzip bomb, short lines": _gzip_bomb("short.txt.gz", b"a\n", 1024),
    "gzip bomb, blank lines": _gzip_bomb("blank.jsonl.gz", b"\n", 2048),
    "gzip bomb, csv": _gzip_bomb("bomb.csv.gz", b"a,b,c\n", 2048),
    "gzip bomb, array": _gzip_bomb("bomb.json.gz", b"[", 1024),
    "parquet, one text for all rows": _parquet("shared.parquet", _one_text_for_all_rows),
    "parquet, nothing but rows": _parquet("rows.parquet", _nothing_but_rows),
    "parquet, ten thousand million rows": _with_footer(_billions),
    "parquet, one cell of 50 MiB": _parquet(
        "cell.parquet", lambda: pl.DataFrame({"prompt": ["x" * _LONG], "response": ["y"], "reward": [1.0]})
    ),
    # long lines and cells
    "line of 50 MiB": _file("long.jsonl", _json({"prompt": "x" * _LONG, "response": "y", "reward": 1})),
    "csv line of 50 MiB": _file("long.csv", f"{_CSV}{'x' * _LONG},y,1\n"),
    "csv with an open quote": _file("quote.csv", f'{_CSV}"' + "x\n" * (_LONG // 2)),
    "csv of 50 million commas": _file("commas.csv", "," * _LONG + "\n" + _CSV),
    "text line of 50 MiB": _file("long.txt", "x" * _LONG),
    "array item of 50 MiB": _file("long.json", json.dumps([{"prompt": "x" * _LONG}])),
    # twins
    "csv column twice": _file("twice.csv", "prompt,response,reward,reward\na b c d,r,1,2\na b c d,s,2,1\n"),
    "json key twice": _file("twice.jsonl", '{"prompt": "a", "response": "b", "reward": 1, "reward": 2}\n'),
    "json array key twice": _file("twice.json", '[{"prompt": "a", "response": "b", "reward": 1, "reward": 2}]'),
    "parquet columns that differ in case": _parquet("case.parquet", _columns_that_differ_in_case),
    "csv columns that differ in case": _file("case.csv", "prompt,response,reward,Reward\na,r,1,2\na,s,2,1\n"),
    # no files
    "fifo": _fifo,
    "socket": _socket,
    "endless device": _link("zero.jsonl", "/dev/zero"),
    "empty device": _link("null.csv", "/dev/null"),
    "link to itself": _link("loop.jsonl", "loop.jsonl"),
    "link to nothing": _link("gone.jsonl", "gone-away.jsonl"),
    "folder": _folder,
    # damage
    "empty jsonl": _file("empty.jsonl", ""),
    "empty csv": _file("empty.csv", ""),
    "empty parquet": _file("empty.parquet", ""),
    "empty gzip": _file("empty.jsonl.gz", b""),
    "parquet of four letters": _file("magic.parquet", b"PAR1"),
    "parquet, truncated": _truncated("parquet", 0.7),
    "parquet that is JSON": _file("json.parquet", _json(*ROWS)),
    "gzip that is no gzip": _file("plain.jsonl.gz", _json(*ROWS)),
    "gzip, truncated": _file("short.jsonl.gz", gzip.compress(_json(*ROWS).encode())[:-20]),
    "json, truncated": _file("half.jsonl", _json(*ROWS)[:-30]),
    "array, truncated": _file("half.json", json.dumps(ROWS)[:-30]),
    "binary": _file("binary.jsonl", bytes(range(256)) * 50),
    # texts
    "utf-16": _file("wide.jsonl", _json(*ROWS).encode("utf-16")),
    "utf-16 csv": _file("wide.csv", f"{_CSV}a,b,1\n".encode("utf-16")),
    "json nested 100,000 deep": _file("deep.jsonl", "[" * 100_000),
    "json object nested 100,000 deep": _file("object.jsonl", '{"prompt":' * 100_000),
    "number of 5,000 digits": _file("digits.jsonl", f'{{"prompt": "a", "response": "b", "reward": {"9" * 5000}}}\n'),
    "number of 400 digits": _file("big.jsonl", f'{{"prompt": "a", "response": "b", "reward": {10**400}}}\n'),
    "json of numbers": _file("numbers.jsonl", "1\n2\n"),
    "json of null": _file("null.jsonl", "null\n"),
    "columns without end": _file("wide-table.jsonl", _json({f"c{n}": n for n in range(20_000)})),
    "rewards that are text": _file("words.jsonl", _json({"prompt": "a", "response": "b", "reward": "\x1b[2Jhigh"})),
    "prompts that are objects": _file("objects.jsonl", _json({"prompt": {"a": 1}, "response": "b", "reward": 1})),
    "no columns": _file("none.jsonl", "{}\n{}\n"),
    "unknown suffix": _file("table.xlsx", b"PK\x03\x04"),
}
"""Files that every reader refuses with one line."""

SOUND: dict[str, Forger] = {
    "byte order mark": _file("bom.jsonl", b"\xef\xbb\xbf" + _json(*ROWS).encode()),
    "byte order mark, csv": _file("bom.csv", b"\xef\xbb\xbf" + f"{_CSV}a b c d,r,1\na b c d,s,2\n".encode()),
    "carriage returns": _file("crlf.jsonl", _json(*ROWS).replace("\n", "\r\n")),
    "carriage returns, csv": _file("crlf.csv", f"{_CSV}a b c d,r,1\na b c d,s,2\n".replace("\n", "\r\n")),
    "no line break at the end": _file("end.jsonl", _json(*ROWS).rstrip("\n")),
    "not all UTF-8": _file(
        "latin.jsonl", _json(*ROWS).encode() + b'{"prompt": "caf\xe9", "response": "b", "reward": 1}\n'
    ),
    "array over several pieces": _file("array.json", " \n" + json.dumps(ROWS * 2_000, indent=1)),
    "link under another name": lambda folder: _link("linked.jsonl", _file("3f2a9c", _json(*ROWS))(folder))(folder),
    "parquet link under another name": lambda folder: _link(
        "linked.parquet", honest(folder, "parquet").rename(folder / "77ab")
    )(folder),
    "gzip": _file("table.jsonl.gz", gzip.compress(_json(*ROWS).encode())),
}
"""Files that look odd and are good."""
