"""The front door: `cclslr COMMAND`, its list of commands, and the same commands as files of tools/."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import TINY_PRETRAIN, finish, records, start, tiny_shards

from cclslr import __version__
from cclslr.__main__ import main
from cclslr.commands import GROUPS, Command, list_commands
from cclslr.errors import UserError

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "nvidia", "numba", "av", "numpy", "omegaconf", "pyarrow", "ffcv", "cv2", "matplotlib", "sklearn"}


def _all(family: tuple[str, ...] = ()) -> list[Command]:
    """Every command that can be run, those of families too."""
    found = []
    for command in list_commands(*family):
        found += _all(command.words) if command.is_family else [command]
    return found


COMMANDS = {command.words: command for command in _all()}


def test_the_list_shows_every_command_in_one_line_of_80_columns(capsys):
    for family in ((), ("bench",), ("study",)):
        assert main([*family]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        shown = [line.split()[0] for line in lines if line.startswith("  ")]
        assert shown == [command.words[-1] for command in list_commands(*family)]
        for command in list_commands(*family):
            assert any(line.rstrip().endswith(command.summary) for line in lines), command.words


def test_groups_come_in_the_order_of_the_job(capsys):
    main(["--help"])
    output = capsys.readouterr().out
    places = [output.index(title) for title in GROUPS.values()]
    assert places == sorted(places)
    orders = [list(GROUPS).index(command.group) for command in list_commands()]
    assert orders == sorted(orders)
    for group in GROUPS:
        seats = [command.place for command in list_commands() if command.group == group]
        assert seats == sorted(set(seats)), f"two commands of {group} claim one place"


def test_the_list_imports_nothing_heavy():
    code = (
        "import sys; from cclslr.__main__ import main; main(['--help']); main(['bench', '--help']);"
        " main(['--version']);"
        f"print('heavy:', sorted({HEAVY!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in output
    assert f"cclslr {__version__}" in output


def test_pretraining_does_not_import_what_only_masks_need():
    """They take a second of each start."""
    code = "import sys, cclslr.train; print(sorted({'FrEIA', 'scipy.stats', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_answers_help_under_its_own_name(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: cclslr {' '.join(words)} ")
    assert "%(" not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "no command 'cclslr trian'; did you mean 'train'"),
        (("bench", "laoder"), "no command 'cclslr bench laoder'; did you mean 'loader'"),
        (("bench", "pretrain"), "no command 'cclslr bench pretrain'; did you mean 'train'"),
        (("xyz",), "no command 'cclslr xyz'"),
        (("--verbose",), "no command 'cclslr --verbose'"),
    ],
)
def test_unknown_commands_are_explained(words, message):
    with pytest.raises(UserError, match=message):
        main([*words])


def test_an_unknown_command_is_one_line_and_exit_code_2():
    done = subprocess.run([sys.executable, "-m", "cclslr", "trian"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'train'" in done.stderr
    assert "Traceback" not in done.stderr


def _stubs() -> dict[tuple[str, ...], Path]:
    """The command that each file of tools/ runs."""
    found = {}
    for path in (ROOT / "tools").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        (call,) = [
            node.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ]
        words = tuple(ast.literal_eval(argument) for argument in call.args)
        assert text == (
            f'"""`cclslr {" ".join(words)}`, from a checkout."""\n\nfrom cclslr.__main__ import run\n\n'
            f'if __name__ == "__main__":\n    run({", ".join(f"{word!r}" for word in words)})\n'.replace("'", '"')
        ), path
        assert words not in found
        found[words] = path
    return found


def test_tools_are_complete():
    """A file of tools/ for each command, and `python -m cclslr.<name>` for the programs."""
    programs = {words for words in COMMANDS if (ROOT / "cclslr" / f"{words[-1]}.py").exists() and len(words) == 1}
    assert set(_stubs()) == set(COMMANDS) - programs
    assert programs == {("train",), ("finetune",), ("evaluate",), ("predict",)}


@pytest.mark.parametrize("tool", ["make_shards.py", "bench/pose.py"])
def test_tools_run_their_command(tool, tmp_path):
    path = ROOT / "tools" / tool
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    words = next(words for words, stub in _stubs().items() if stub == path)
    assert done.stdout.startswith(f"usage: cclslr {' '.join(words)} ")


def test_torchrun_starts_the_front_door(tmp_path):
    """`torchrun -m cclslr train …`, as the docs show it, with two ranks."""
    shards, run = tiny_shards(tmp_path / "shards"), tmp_path / "run"
    options = ["model.modalities=pose", f"data.shards={shards}", f"run.dir={run}", "run.max_steps=1"]
    finish(start("cclslr", "train", *TINY_PRETRAIN, *options, ranks=2))
    assert [record["step"] for record in records(run)] == [1]
    assert (run / "last.pt").exists()
