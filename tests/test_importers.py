"""The table of importers: found by itself, and used wherever data sets are chosen."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from cclslr.commands import pack, poses
from cclslr.datasets.base import importers

ROOT = Path(__file__).parents[1]


def test_a_file_is_all_that_an_importer_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is put into the package is a sub-command of pack, and a data set of poses."""
    (tmp_path / "one_more.py").write_text(
        '''"""One more data set."""

from cclslr.datasets.base import Import, Importer
from cclslr.datasets.lists import Ledger


def add_arguments(parser):
    parser.add_argument("--words", required=True)


def load(args):
    return Ledger().finish(0, args.words.split())


IMPORTER = Importer("one_more", "one more", add_arguments, load)
'''
    )
    package = importlib.import_module("cclslr.datasets")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    args = pack.parse(["one_more", "--words", "a b", "--out", "x"])
    assert args.load(args).classes == ["a", "b"]
    assert poses.parse(["--dataset", "one_more", "--words", "c", "--out", "x"]).words == "c"
    sys.modules.pop("cclslr.datasets.one_more")


@pytest.mark.parametrize("name", importers())
def test_every_importer_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for parse, arguments in ((pack.parse, [name, "--help"]), (poses.parse, ["--dataset", name, "--help"])):
        with pytest.raises(SystemExit):
            parse(arguments)
        assert "--out" in capsys.readouterr().out
    description = importers()[name].description
    assert description
    assert f"`cclslr pack {name}" in (ROOT / "docs" / "datasets.md").read_text()
