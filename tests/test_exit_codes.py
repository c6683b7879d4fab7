"""What a command ends with, as a script sees it: real processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT
from videos import encode, moving_bar

from cclslr.errors import ExitCode


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return None", ExitCode.DONE, ""),
        ("return ExitCode.SOME_BAD", ExitCode.SOME_BAD, ""),
        ("raise UserError('x.mp4: not there')", ExitCode.REFUSED, "error: x.mp4: not there\n"),
        ("raise OSError(28, 'No space left')", ExitCode.REFUSED, "error: [Errno 28] No space left\n"),
        ("raise KeyError('a bug')", ExitCode.BUG, "KeyError: 'a bug'\n"),
        ("raise KeyboardInterrupt", ExitCode.CTRL_C, ""),
    ],
)
def test_each_kind_of_end_has_a_code(body: str, code: ExitCode, said: str) -> None:
    imports = "from cclslr.console import run_command\nfrom cclslr.errors import ExitCode, UserError"
    process = ended("-c", f"{imports}\ndef main():\n    {body}\nrun_command(main)")
    assert process.returncode == code
    assert process.stderr.endswith(said)
    assert ("Traceback" in process.stderr) == (code == ExitCode.BUG)


def test_clips_that_are_rejected_are_neither_a_bug_nor_refused(tmp_path: Path) -> None:
    (tmp_path / "videos/drink").mkdir(parents=True)
    encode(tmp_path / "videos/drink/a.mp4", moving_bar(12))
    (tmp_path / "videos/drink/b.mp4").write_bytes(b"no video")
    shards = tmp_path / "shards"

    def command(*words: str) -> int:
        return ended("-m", "cclslr", *words).returncode

    options = ("--out", str(shards), "--crop", "none", "--codec", "jpeg")
    assert command("pack", "folder", str(tmp_path / "videos"), *options) == ExitCode.SOME_BAD
    assert command("check", str(shards)) == ExitCode.DONE
    (shards / "shard-00000.idx").unlink()
    assert command("check", str(shards)) == ExitCode.SOME_BAD
    assert command("pack", "folder", str(tmp_path / "nowhere"), *options) == ExitCode.REFUSED


def test_the_codes_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE)
    assert list(map(int, rows)) == list(ExitCode)
