"""All that is printed passes one place, and nothing that a terminal would obey gets through."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from fittest.runs import cli
from fittest.runs.cli import main
from fittest.runs.terminal import say, tell, visible_streams

ROOT = Path(cli.__file__).resolve().parents[2]

EVIL = "\x1b]52;c;cm0=\x07\x1b[2J\x9b\u202e\u200b\u2028"
SHOWN = r"\x1b]52;c;cm0=\x07\x1b[2J\x9b\u202e\u200b\u2028"

PRINTS = re.compile(r"\bclick\.s?echo\(|(?<![\w.])print\(|\bsys\.(__)?std(out|err)(__)?\.(write|buffer)|\bConsole\(")
"""How Python prints; only runs/terminal.py may."""

ALLOWED = {
    "runs/terminal.py",
    # rich draws these; the texts that it is given go through `visible`
    "runs/progress.py",
    "runs/cli/ablate.py",
    # children that speak to their parent in JSON
    "runs/preflight/trials.py",
    "runs/reading/parquet_child.py",
}


def test_nothing_else_prints() -> None:
    sources = [path for part in ("evo", "operators", "fitness", "runs") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 100
    printing = {str(path.relative_to(ROOT)) for path in sources if PRINTS.search(path.read_text(encoding="utf-8"))}
    assert printing == ALLOWED


@pytest.mark.parametrize("err", [False, True])
def test_a_line_stays_one_line(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"warning: {EVIL}\nfittest: all is well", "", "next", err=err)
    printed = capsys.readouterr()
    lines = (printed.err if err else printed.out).split("\n")
    assert lines == [rf"warning: {SHOWN}\nfittest: all is well", "", "next", ""]


def test_a_line_of_progress_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"{EVIL}\rgone")
    assert capsys.readouterr().err == f"{SHOWN}\\rgone\n"


def test_the_streams_write_out_what_libraries_print(capsys: pytest.CaptureFixture[str]) -> None:
    with visible_streams():
        sys.stdout.write(f"a library\t{EVIL}\nand its next line\rgone\n")
        sys.stdout.write("\r 50 %")
        sys.stderr.write(warnings.formatwarning(f"warned {EVIL}", UserWarning, "file.py", 1))
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": f"logged {EVIL}"}))
        traceback.print_exception(ValueError(EVIL))
    printed = capsys.readouterr()
    assert printed.out == f"a library\t{SHOWN}\nand its next line\\rgone\n\r 50 %"
    assert f"warned {SHOWN}\n" in printed.err
    assert f"logged {SHOWN}\n" in printed.err
    assert f"ValueError: {SHOWN}\n" in printed.err
    assert not set(EVIL) & set("\x1b\x07\x9b\u202e\u200b\u2028") & set(printed.err)


def test_bars_of_progress_are_redrawn(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm import tqdm

    with visible_streams():
        for name in ("outer", "inner"):
            with tqdm(total=1, desc=f"{name} {EVIL}", file=sys.stderr, ncols=60, position=1) as bar:
                bar.update()
    printed = capsys.readouterr().err
    assert r"\x1b[A" not in printed
    assert printed.count("\x1b") == printed.count("\x1b[A") > 0
    assert r"\x1b]52" in printed


def test_a_terminal_that_knows_no_unicode_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with visible_streams():
        say("τ ≥ 0.5")
        sys.stdout.flush()
    assert narrow.buffer.getvalue() == rb"\u03c4 \u2265 0.5" + b"\n"  # type: ignore[attr-defined]


def test_what_click_says_of_arguments_is_one_line() -> None:
    for arguments in (
        [f"{EVIL}\nverb"],
        ["run", f"--option{EVIL.replace('=', '')}\n"],
        ["export", "somewhere", "--to", f"{EVIL}\nform"],
        ["filter", "x", "--out", "y", "--by", f"{EVIL}\nname"],
        [f"--{EVIL.replace('=', '')}\n"],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert not set("\x1b\x07\x9b\u202e\u200b\u2028") & set(result.output)
        assert r"\x1b[2J\x9b\u202e\u200b\u2028\n" in result.output


def test_a_file_name_of_a_user_is_shown_written_out(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path / f"run{EVIL}\nfittest: done")])
    assert result.exit_code == 2
    assert result.output == rf"fittest: {tmp_path}/run{SHOWN}\nfittest: done: no run here (no run.toml)" + "\n"


def test_a_traceback_is_shown_written_out() -> None:
    code = (
        "import sys, click\nfrom fittest.runs.cli import main\n"
        "@main.command('break')\ndef broken():\n    raise RuntimeError('\\x1b[2J\\u202e')\n"
        "main.get_command = lambda ctx, name: broken\nmain(['break'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == r"RuntimeError: \x1b[2J\u202e"


def test_the_table_of_ablate_obeys_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from fittest.runs.cli.ablate import _show

    _show(["filter", f"kept [red]{EVIL}[/]"], [[f"[red]RIP[/] {EVIL}", "[link=http://x]1[/link]"]])
    printed = capsys.readouterr().out
    assert "[red]RIP[/]" in printed.replace("\n", "")
    assert "[link=http://x]1[/link]" in printed
    assert "\x1b" not in printed


def test_what_is_printed_beside_the_live_line_is_written_out() -> None:
    code = (
        "import sys, warnings\nfrom rich.console import Console\nfrom rich.live import Live\n"
        "from rich.text import Text\n"
        "from fittest.runs.terminal import visible_streams\n"
        "with visible_streams():\n"
        "    console = Console(stderr=True)\n"
        "    with Live(Text('live'), console=console, auto_refresh=False, transient=True), visible_streams():\n"
        "        console.print(Text('a generation'))\n"
        "        warnings.warn('\\x1b[31mred\\x1b]52;c;cm0=\\x07\\u202e', stacklevel=1)\n"
    )
    printed = _on_a_terminal([sys.executable, "-c", code])
    # the live line is drawn with orders of rich's own, which the guard lets through
    assert "\x1b[?25l" in printed
    assert r"\x1b[31mred\x1b]52;c;cm0=\x07\u202e" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", "", printed)
    assert "\x1b]52" not in printed
    assert "\x1b[31m" not in printed
    assert "\u202e" not in printed


def _on_a_terminal(command: list[str]) -> str:
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environment) as process:
        os.close(follower)
        pieces = []
        try:
            while piece := os.read(leader, 65536):
                pieces.append(piece)
        except OSError:  # the last writer has gone
            pass
        process.wait()
    os.close(leader)
    return b"".join(pieces).decode()


def test_a_traceback_has_no_colours_that_would_be_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    program = "import sys; from fittest.runs.terminal import show_traceback as s; sys.excepthook = s; 1 / 0"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stderr.endswith("\nZeroDivisionError: division by zero\n")
    assert r"\x1b" not in ended.stderr
