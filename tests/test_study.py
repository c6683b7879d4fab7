"""The study engine: addresses, shared stages, restarts, statistics, tables and the page."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from small_runs import finish

from cclslr.__main__ import main
from cclslr.config import FinetuneConfig, PretrainConfig
from cclslr.errors import UserError
from cclslr.files import read_json
from cclslr.keys import list_keys
from cclslr.study import stage as stage_module
from cclslr.study.graph import build
from cclslr.study.kinds import _training
from cclslr.study.results import Result, differences, mean_of
from cclslr.study.run import Place, run
from cclslr.study.spec import SHIPPED, Cell, PlotSpec, Study, TableSpec, find, load
from cclslr.study.stage import RESULT, Stage
from cclslr.study.tables import difference_table, pivot
from cclslr.study.write import write_study

ROOT = Path(__file__).parents[1]

TOY_KIND = '''"""A stage that adds up what it takes, in no time; every run of it is a line in a file."""

from pathlib import Path

from cclslr.errors import UserError
from cclslr.files import read_json, write_json
from cclslr.study.stage import Kind


def commands(work):
    config = work.stage.config
    with open(config["ran"], "a") as file:
        file.write(work.stage.name + "\\n")
    if config.get("fail"):
        raise UserError("it had to fail")
    total = config["add"] + sum(read_json(path)["total"] for path in work.inputs["of"])
    write_json(work.folder / "total.json", {"total": total})
    return []


KIND = Kind(
    "toy", ("of",), lambda settings, seed: {"seed": seed, **settings}, lambda config: config, commands,
    lambda folder, config: str(folder / "total.json"),
    lambda folder, config: {"pose": {"per_instance_top1": read_json(folder / "total.json")["total"]}},
)
'''

TOY_STUDY = """
title: Toy
about: Sums.
seeds: [0, 1]
against: plain
report: last
stages:
  first: {kind: toy, add: 1, ran: RAN}
  middle: {kind: toy, of: [first], add: 10, ran: RAN}
  last: {kind: toy, of: middle, add: 100, ran: RAN}
cells:
  plain: {}
  more: {last.add: 200}
  other middle: {middle.add: "${seed}"}
tables:
  - {title: Sums, rows: cell, columns: branch, where: {metric: per_instance_top1}, paper: {plain: {pose: 1.5}}}
plots:
  - {title: Sums, x: cell, series: branch, where: {metric: per_instance_top1}}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file of stages that are sums."""
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "toy.py").write_text(TOY_KIND)
    package = importlib.import_module("cclslr.study.kinds")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "kinds")])
    monkeypatch.delitem(sys.modules, "cclslr.study.kinds.toy", raising=False)
    stage_module.kinds.cache_clear()
    path = tmp_path / "toy.yaml"
    path.write_text(TOY_STUDY.replace("RAN", str(tmp_path / "ran.txt")))
    yield path
    monkeypatch.undo()
    stage_module.kinds.cache_clear()


def run_toy(path: Path, overrides: list[str] | None = None, seeds: list[int] | None = None) -> dict[str, str]:
    study = load(path, overrides or [], seeds)
    graph = build(study)
    errors = run(graph, Place(path.parent / "store", workers=0), path.parent / "out" / "log.txt")
    write_study(study, graph, path.parent / "store", path.parent / "out", errors)
    return errors


def test_what_cells_share_runs_once_and_once_only(toy: Path) -> None:
    assert run_toy(toy) == {}
    # Each seed: one first; middle plain and other; last plain, more, other.
    ran = (toy.parent / "ran.txt").read_text().split()
    assert sorted(ran) == sorted(["first"] * 2 + ["middle"] * 4 + ["last"] * 6)
    values = {
        (r["cell"], r["seed"]): r["per_instance_top1"] for r in read_json(toy.parent / "out/results.json")["results"]
    }
    assert values == {
        ("plain", 0): 111, ("plain", 1): 111, ("more", 0): 211, ("more", 1): 211,
        ("other middle", 0): 101, ("other middle", 1): 102,
    }  # fmt: skip
    run_toy(toy, seeds=[0, 1, 2])
    assert (toy.parent / "ran.txt").read_text().split()[len(ran) :].count("first") == 1  # of the new seed
    assert "12 are there" in (toy.parent / "out/log.txt").read_text()


def test_an_override_makes_other_stages_from_there_on(toy: Path) -> None:
    run_toy(toy, seeds=[0])
    before = (toy.parent / "ran.txt").read_text().split()
    run_toy(toy, ["middle.add=5"], seeds=[0])
    assert sorted((toy.parent / "ran.txt").read_text().split()[len(before) :]) == ["last", "last", "middle"]


def test_a_failed_stage_fails_what_needs_it_and_nothing_else(toy: Path) -> None:
    toy.write_text(toy.read_text().replace("other middle: {", "other middle: {middle.fail: true, "))
    errors = run_toy(toy, seeds=[0])
    assert sorted(errors.values()) == ["it had to fail", "its input middle is missing"]
    page = (toy.parent / "out/index.html").read_text()
    assert "it had to fail" in page
    assert "Not there yet: other middle, seed 0" in page
    toy.write_text(toy.read_text().replace("middle.fail: true, ", ""))
    assert run_toy(toy, seeds=[0]) == {}


def test_tables_are_as_they_were(toy: Path) -> None:
    run_toy(toy)
    assert (
        (toy.parent / "out/tables.md").read_text()
        == """# Toy

Sums.

**Sums**

| cell | pose |
| --- | --- |
| plain | 111.0 ± 0.0 (2) |
| more | 211.0 ± 0.0 (2) |
| other middle | 101.5 ± 0.7 (2) |
| paper: plain | 1.5 |

**Sums: differences from plain**

| cell | pose |
| --- | --- |
| more | +100.0 ± 0.0 (2) |
| other middle | -9.5 ± 0.5 (2) |

Mean of the differences, seed by seed, ± its standard error (seeds).
"""
    )


def test_a_target_is_told_before_the_tables_and_in_the_results(toy: Path) -> None:
    toy.write_text(f"{toy.read_text()}target: {{at_least: {{pose: 111}}, costs: price}}\n")
    priced = TOY_KIND.replace('{"pose": {', '{"cost": {"price": config["add"]}, "pose": {')
    (toy.parent / "kinds" / "toy.py").write_text(priced)
    run_toy(toy)
    text = (toy.parent / "out/tables.md").read_text()
    costs, reached, sums = text.index("What a pre-training costs"), text.index("reaches"), text.index("**Sums**")
    assert costs < reached < sums
    assert "| more | 200.0 ± 0.0 (2) | 2.000 ± 0.000 |" in text
    assert "| other middle | pose | 101.5 ± 0.7 (2) | 111 | no, 0 of 2 seeds | -9.5 ± 0.5 (2) | worse |" in text
    told = read_json(toy.parent / "out/results.json")
    assert [(each["cell"], each["reached"], each["compared"]) for each in told["target"]] == [
        ("plain", True, ""), ("more", True, "better"), ("other middle", False, "worse"),
    ]  # fmt: skip
    assert [(each["cell"], each["ratio"] and each["ratio"]["mean"]) for each in told["costs"]] == [
        ("plain", None), ("more", 2.0), ("other middle", 1.0),
    ]  # fmt: skip
    assert "What a pre-training costs" in (toy.parent / "out/index.html").read_text()
    assert (toy.parent / "out/target.png").exists()


def test_dry_run_lists_and_runs_nothing(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(toy), "--dry-run", "--store", str(toy.parent / "store")]) == 0
    output = capsys.readouterr().out
    assert output.count("toy-") == 12
    assert not (toy.parent / "store").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("last.add: 200", "lst.add: 200"), "did you mean 'last'"),
        (("of: middle", "of: first_one"), "no such stage"),
        (("of: [first]", "of: [last]"), "circle"),
        (("against: plain", "against: plane"), "did you mean 'plain'"),
        (("kind: toy, add: 1,", "kind: tyo, add: 1,"), "choose one of"),
        (("rows: cell", "row: cell"), "did you mean 'rows'"),
        (("title: Toy", "titel: Toy"), "did you mean 'title'"),
        (("report: last", "report: lst"), "did you mean 'last'"),
    ],
)
def test_study_files_that_are_wrong_say_where(toy: Path, change: tuple[str, str], message: str) -> None:
    text = toy.read_text()
    assert change[0] in text
    toy.write_text(text.replace(*change))
    with pytest.raises(UserError, match=message):
        build(load(toy))


def _address(kind: type, overrides: dict[str, object], seed: int = 0) -> str:
    name = "pretrain" if kind is PretrainConfig else "finetune"
    return Stage("any", name, _training.resolve(kind, overrides, seed), {"shards": ("a",)}).address


def _other(value: object, key) -> object | None:
    """Another value that the key may have; None where there is none to be had simply."""
    if key.choices:
        other = next((choice for choice in key.choices if choice != value and [choice] != value), None)
        return [other] if key.is_list else other
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        step = 1 if isinstance(value, int) else 0.01
        return value + step if key.high is None or value + step <= key.high else value - step
    return "another" if isinstance(value, str) else None


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_every_key_that_matters_changes_the_address(kind: type) -> None:
    plain = _address(kind, {})
    assert _address(kind, {}) == plain
    assert _address(kind, {}, seed=1) != plain
    given_by_study = (*_training.GIVEN, "run.seed")
    changed = 0
    for key in list_keys(kind):
        if key.name in given_by_study or (other := _other(key.default, key)) is None:
            continue
        address = _address(kind, {key.name: other})
        assert (address == plain) == (key.effect == "none"), key.name
        changed += 1
    assert changed > 40


def test_inputs_and_seed_are_part_of_the_address() -> None:
    config = _training.resolve(PretrainConfig, {}, 0)
    addresses = {Stage("n", "pretrain", config, {"shards": shards}).address for shards in (("a",), ("b",), ("a", "b"))}
    assert len(addresses) == 3
    assert (
        Stage("n", "pretrain", config, {"shards": ("a",)}).address
        == Stage("m", "pretrain", config, {"shards": ("a",)}).address
    )
    with pytest.raises(UserError, match="given by the study"):
        _training.resolve(PretrainConfig, {"run.dir": "x"}, 0)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_shipped_studies_resolve(name: str) -> None:
    study = load(find(name), seeds=[0])
    graph = build(study)
    assert graph.reports
    packs_otherwise = any(key.startswith("pack.") for cell in study.cells for key in cell.overrides)
    if study.stages.get("pack", {}).get("importer") == "synthetic" and not packs_otherwise:
        assert build(load(find(name), ["data=paper"], [0])).reports


def test_ablations_share_what_they_have_in_common() -> None:
    """Tables 3, 5 and 6 hold the full method, on the same data: it is one stage."""
    full = [set(build(load(find(name), seeds=[0])).stages) for name in ("table3", "table5", "table6")]
    assert len(set.intersection(*full)) >= 3  # data, pre-training, fine-tuning


def test_a_stage_is_compared_with_the_same_stage_and_else_with_the_first() -> None:
    cells = tuple(Cell(name, {"cell": name}, (), {}) for name in ("network", "baseline", "better"))
    study = Study("s", "s", "", (0,), "network", {}, cells, (), (), None, (), "")
    rows = [("network", "finetune", 10), ("network", "again", 20), ("better", "finetune", 11), ("better", "again", 25)]
    rows.append(("baseline", "baseline", 7))
    results = [Result(cell, {"cell": cell}, 0, stage, "pose", "top1", value) for cell, stage, value in rows]
    found = {(each.cell, each.stage): each.difference for each in differences(study, results)}
    assert found == {("baseline", "baseline"): -3, ("better", "finetune"): 1, ("better", "again"): 5}


NUMBERS = st.floats(-100, 100, allow_nan=False)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_paired_statistics_agree_with_scipy(pairs: list[tuple[float, float]]) -> None:
    cells = tuple(Cell(name, {"cell": name}, ("finetune",), {}) for name in ("a", "b"))
    study = Study("s", "s", "", tuple(range(len(pairs))), "a", {}, cells, (), (), None, (), "")
    results = [
        Result(cell.name, cell.place, seed, "finetune", "pose", "top1", pair[i])
        for i, cell in enumerate(cells)
        for seed, pair in enumerate(pairs)
    ]
    (found,) = differences(study, [*results, Result("b", {"cell": "b"}, 99, "finetune", "pose", "top1", 1e6)])
    a, b = np.array(pairs).T
    assert (found.cell, found.against, found.n) == ("b", "a", len(pairs))
    assert found.difference == pytest.approx(np.mean(b - a), abs=1e-9)
    assert found.standard_error == pytest.approx(stats.sem(b - a), abs=1e-9)
    mean = mean_of(list(a))
    assert (mean.mean, mean.deviation) == (
        pytest.approx(np.mean(a), abs=1e-9),
        pytest.approx(np.std(a, ddof=1), abs=1e-9),
    )


def test_a_table_over_two_axes_and_one_that_is_ambiguous() -> None:
    def result(method: str, data: str, seed: int, branch: str, value: float) -> Result:
        name = f"{method}, {data}"
        return Result(name, {"cell": name, "method": method, "set": data}, seed, "finetune", branch, "top1", value)

    results = [
        result(m, d, seed, branch, 10 * i + seed)
        for seed in (0, 2)
        for branch in ("rgb", "pose")
        for i, (m, d) in enumerate([("scratch", "A"), ("CCL", "A"), ("CCL", "B")])
    ]
    table = pivot(TableSpec("t", ("method",), ("set",), {"branch": ("pose",)}), results)
    assert table.head == ["method", "A", "B"]
    assert table.rows == [["scratch", "1.0 ± 1.4 (2)", "–"], ["CCL", "11.0 ± 1.4 (2)", "21.0 ± 1.4 (2)"]]
    with pytest.raises(UserError, match="differ in branch fall together"):
        pivot(TableSpec("t", ("method",), ("set",)), results)
    both = pivot(TableSpec("t", ("method", "branch"), ("set",), {"branch": ("pose", "rgb")}), results)
    assert [row[0] for row in both.rows] == ["scratch, pose", "CCL, pose", "scratch, rgb", "CCL, rgb"]
    assert difference_table(TableSpec("t", ("method",), ("set",)), results, []) is None


REAL_STUDY = """
title: Killed
about: A study that is killed and goes on.
seeds: [0]
stages:
  pack: {kind: pack, importer: synthetic, classes: 2, clips_per_class: [6, 0, 3], signers: [2, 0, 1], size: 32,
         frames: [8, 10], no_video: true}
  finetune:
    kind: finetune
    shards: [pack]
    model: {modalities: [pose], gcn_width: 8, transformer_blocks: 1, transformer_heads: 2, transformer_width: 16}
    views: {pose_frames: 4}
    optim: {epochs: 20, batch: 4, micro_batch: 4}
    run: {log_every: 1, checkpoint_steps: 1, device: cpu}
    data: {workers: 1}
  baseline: {kind: baseline, shards: [pack], run.device: cpu}
cells:
  scratch: {}
  logistic: {report: baseline, baseline.features: input}
tables:
  - {title: Top-1, rows: cell, columns: branch, where: {metric: per_instance_top1}}
"""


def start_study(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cclslr", "study", str(folder / "killed.yaml"), "--store", str(folder / "store")]
    return subprocess.Popen(
        [*command, "--out", str(folder / "out")], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def numbers(folder: Path) -> object:
    results = read_json(folder / "out" / "results.json")
    return results["results"], results["means"]


def test_killed_in_the_middle_it_gives_the_same_numbers(tmp_path: Path) -> None:
    """kill -9 while a stage trains: its process ends too, and the study goes on from the training's checkpoint."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "killed.yaml").write_text(REAL_STUDY)
    finish(start_study(whole))
    # The same data: only the training is to be killed.
    shutil.copytree(whole / "store", killed / "store", ignore=shutil.ignore_patterns("finetune-*"))
    process = start_study(killed)
    while process.poll() is None and not list(killed.glob("store/finetune-*/last.pt")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stage,) = killed.glob("store/finetune-*")
    assert not (stage / RESULT).exists()
    output = finish(start_study(killed))
    assert "2 are there" in output
    assert "continuing" in (stage / "log.txt").read_text()
    assert numbers(killed) == numbers(whole)
    steps = [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_the_page_opens_in_a_browser(toy: Path) -> None:
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium here")
    run_toy(toy)
    page = toy.parent / "out" / "index.html"
    # What the scripts of the page did is in the document that comes back: sort the last table by its first column.
    probe = toy.parent / "probe.html"
    click = "<script>document.querySelectorAll('table.sortable')[1].querySelectorAll('th')[0].click()</script>"
    probe.write_text(page.read_text().replace("</body>", f"{click}</body>"))
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={toy.parent / 'browser'}"]
    done = subprocess.run(
        [browser, *arguments, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    dom = done.stdout
    assert "<svg" in dom
    assert "211.0 ± 0.0 (2)" in dom
    cells = [row.split("</td>")[0] for row in dom.split("<h2>Every cell and seed</h2>")[1].split("<tr><td>")[1:7]]
    assert cells == sorted(cells)
    assert "src=" not in page.read_text()  # nothing from elsewhere
    assert PlotSpec("t", "x", "s").kind == "bars"
