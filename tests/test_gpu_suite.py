"""The GPU suite as a script: every section is booked, a failure does not stop it, a kill loses nothing measured."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cclslr.bench import suite

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "tools" / "gpu_suite.sh"
TARGETS = ["loader >= 2 x step", "stall <= 1 %", "MFU >= 40 %", "step >= 1.5 x plain"]

# Stands in for Python: fails or hangs where told, writes the files that sections promise, is the real one for the rest.
STAND_IN = """#!/bin/bash
echo "$*" >> "$CALLS"
[ "$1" = - ] || [ "$2" = cclslr.bench.suite ] && exec REAL "$@"
case "$*" in *"$FAIL"*) echo "went wrong"; exit 3 ;; esac
[ "$3" = train ] && mkdir -p "$WORK/run" && echo '{"step": 5, "loss": LOSS}' > "$WORK/run/metrics.jsonl"
for last; do
    [ "$previous" = --json ] && echo '{"rate": 1}' > "$last"
    [ "$previous" = --trace ] && echo '{}' > "$last"
    previous=$last
done
case "$*" in *"$HANG"*) touch "$CALLS.hangs"; sleep 60 ;; esac
exit 0
"""


def start(
    tmp_path: Path, *part: str, fail: str = "no fail", hang: str = "no hang", loss: str = "12.5", **settings: str
) -> subprocess.Popen[str]:
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STAND_IN.replace("REAL", sys.executable).replace("LOSS", loss))
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "CALLS": str(calls), "FAIL": fail, "HANG": hang} | settings
    return subprocess.Popen(
        [SUITE, tmp_path / "out", *part], env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True
    )


def run(tmp_path: Path, *part: str, **options: str) -> tuple[int, dict[str, Any], list[str]]:
    process = start(tmp_path, *part, **options)
    output, _ = process.communicate(timeout=300)
    assert TARGETS[0] in output
    result = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert [v["target"] for v in result["verdict"]] == TARGETS
    calls = tmp_path / "calls"
    return process.returncode, result["sections"], calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("dry", ["", "1"])
def test_all_sections_pass_in_both_parts(tmp_path: Path, dry: str) -> None:
    code, sections, calls = run(tmp_path, CCLSLR_DRY_RUN=dry)
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(sections, "ok")
    assert code == 0
    assert list(sections)[:4] == ["environment", "step", "pack", "train_numba"]  # the most valuable figures first
    assert sections["step"]["result"] == {"rate": 1}
    assert sections["short_run"]["result"] == [{"step": 5, "loss": 12.5}]
    assert (tmp_path / "out" / "one_step.trace.json.gz").exists()
    code, more, calls = run(tmp_path, "more", CCLSLR_DRY_RUN=dry)
    assert code == 0
    assert set(sections) < set(more)  # the first part is kept
    trained = [call for call in calls if call.startswith("-m cclslr bench train")]
    assert len(trained) == 13
    (small,) = (call for call in calls if "two_sizes" in call and call in trained)
    assert re.findall(r"views\.size=(\d+)", small)[-1] == ("16" if dry else "112")
    assert all(("run.device=cpu" if dry else "run.device=cuda") in call for call in trained)
    assert all(("r3d10_narrow" in call) == bool(dry) for call in trained)
    assert all(("optim.batch=8" if dry else "optim.batch=16") in call for call in trained)


@pytest.mark.parametrize(("fail", "alpha"), [("no fail", "0.2"), ("-m cclslr masks", "0")])
def test_the_short_run_does_without_masks_that_could_not_be_made(tmp_path: Path, fail: str, alpha: str) -> None:
    _, sections, calls = run(tmp_path, fail=fail)
    assert sections["masks"]["status"] == ("ok" if alpha == "0.2" else "failed (3)")
    assert sections["short_run"]["status"] == "ok"
    (call,) = (call for call in calls if call.startswith("-m cclslr train"))
    assert re.findall(r"views\.mask_alpha=(\S+)", call)[-1] == alpha


def test_limits_of_a_part_are_within_a_call_of_ten_minutes() -> None:
    before, parts = SUITE.read_text().split('if [ "$PART" = first ]; then')
    both, first, more = (
        sum(int(seconds) for seconds in re.findall(r"^ *(?:step|section) \S+ (\d+) ", text, re.MULTILINE))
        for text in (before, *parts.split("\nelse\n"))
    )
    assert both + first <= 580
    assert both + more <= 580
    assert min(both, first, more) > 0


def test_a_failure_is_booked_and_the_rest_goes_on(tmp_path: Path) -> None:
    code, sections, calls = run(tmp_path, fail="cclslr pack")
    assert code == 1
    failed = {name for name, section in sections.items() if section["status"] != "ok"}
    assert failed == {"pack"}
    assert sections["pack"]["status"] == "failed (3)"
    assert sections["pack"]["log_end"] == ["went wrong"]
    assert sum("cclslr pack" in call for call in calls) == 1
    assert any("cclslr plan" in call for call in calls)


def test_no_time_left_is_no_success(tmp_path: Path) -> None:
    code, sections, calls = run(tmp_path, SUITE_SECONDS="0")
    assert code == 1
    assert {section["status"] for section in sections.values()} == {"no time left"}
    assert all(call.startswith("-m cclslr.bench.suite") for call in calls)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_suite_that_is_killed_has_lost_nothing(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path, hang="decode=libav")
    try:
        while not (tmp_path / "calls.hangs").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, how)  # with all that it started
        process.wait()
    result = json.loads((tmp_path / "out" / "suite.json").read_text())["sections"]
    assert list(result) == ["environment", "step", "pack", "train_numba", "train_jpeg_gpu"]
    assert result["train_numba"]["result"] == {"rate": 1}
    suite.main(tmp_path / "out")  # what the killed section had written counts, too
    result = json.loads((tmp_path / "out" / "suite.json").read_text())["sections"]
    assert result["train_video_libav"]["status"] == "interrupted"
    assert result["train_video_libav"]["result"] == {"rate": 1}


def test_a_section_over_its_limit_keeps_what_it_wrote(tmp_path: Path) -> None:
    code, sections, _ = run(tmp_path, hang="decode=libav", SUITE_SECONDS="12")
    assert code == 1
    assert sections["train_video_libav"]["status"] == "timed out"
    assert sections["train_video_libav"]["result"] == {"rate": 1}
    assert sections["plain"]["status"] == "no time left"


def test_losses_that_are_not_finite_fail_the_short_run(tmp_path: Path) -> None:
    code, sections, _ = run(tmp_path, loss="NaN")
    assert code == 1
    assert sections["short_run"]["status"] == "failed (1)"


def test_help_for_a_wrong_call(tmp_path: Path) -> None:
    for arguments in ([], [tmp_path, "less"], ["--help"]):
        answer = subprocess.run([SUITE, *arguments], capture_output=True, text=True, check=False)
        assert answer.returncode == 2
        assert "CCLSLR_DRY_RUN=1" in answer.stdout


def placed(real: float, supply: float, stall: float) -> dict[str, Any]:
    modes = {"real": {"clips_per_second": real}}
    return {"result": {"modes": modes, "supply_over_replay": supply, "stall_share": stall}}


def test_the_verdict_is_that_of_the_placement_that_trains_fastest() -> None:
    found = {
        "step": {"result": {"mfu": 0.41}},
        "train_numba": placed(300, 1.9, 0.02),
        "train_jpeg_gpu": placed(390, 2.5, 0.008),
        "train_video_nvdec": {"result": None},
        "train_video_libav": {"result": {"modes": {"replay": {}}}},  # killed before its first block with a loader
        "plain": {"result": {"lean_over_plain": 1.2}},
    }
    verdict = suite.verdict(found)
    assert [v.measured for v in verdict] == [2.5, 0.008, 0.41, 1.2]
    assert [v.met for v in verdict] == [True, True, True, False]
    assert verdict[0].where == "train_jpeg_gpu"
    assert [v.met for v in suite.verdict({})] == [None] * 4


def test_a_tool_that_is_killed_half_way_leaves_its_blocks(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    tiny = [
        "model.modalities=[pose]", "model.gcn_width=16", "model.transformer_blocks=1", "model.transformer_heads=2",
        "model.transformer_width=16", "views.pose_frames=8", "objective.bank_size=12", "optim.batch=4",
        "optim.micro_batch=4", "run.device=cpu",
    ]  # fmt: skip
    command = [sys.executable, "-m", "cclslr", "bench", "train", "--repeats", "100000", "--steps", "1", "--plain"]
    process = subprocess.Popen([*command, "--json", out, *tiny], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not (out.exists() and "plain" in json.loads(out.read_text())["modes"]):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    result = json.loads(out.read_text())
    assert result["complete"] is False
    assert result["modes"]["replay"]["n"] >= result["modes"]["plain"]["n"] >= 1
    assert result["lean_over_plain"] > 0
    assert result["mfu"] > 0
    assert result["environment"]["cores"] >= 1
