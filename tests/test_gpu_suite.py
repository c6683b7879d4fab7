"""The GPU suite as a script: every section is booked, a failure does not stop it, and it ends with one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[1] / "tools" / "gpu_suite.sh"

# Stands in for Python: fails where told, writes the files that sections promise, is the real one for inline scripts.
STAND_IN = """#!/bin/bash
echo "$*" >> "$CALLS"
[ "$1" = - ] && exec REAL "$@"
case "$*" in *"$FAIL"*) echo "went wrong"; exit 3 ;; esac
[ "$2" = cclslr.train ] && mkdir -p "$WORK/run" && echo '{"step": 5, "loss": LOSS}' > "$WORK/run/metrics.jsonl"
for last; do [ "$previous" = --json ] && echo '{"rate": 1}' > "$last"; previous=$last; done
exit 0
"""


def run(
    tmp_path: Path, fail: str = "nothing fails", loss: str = "12.5", **settings: str
) -> tuple[int, dict, list[str]]:
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STAND_IN.replace("REAL", sys.executable).replace("LOSS", loss))
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "CALLS": str(calls), "FAIL": fail} | settings
    answer = subprocess.run([SUITE, tmp_path / "out"], env=environment, capture_output=True, text=True, check=False)
    result = json.loads((tmp_path / "out" / "suite.json").read_text())
    return answer.returncode, result["sections"], calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("dry", ["", "1"])
def test_all_sections_pass(tmp_path, dry):
    code, sections, calls = run(tmp_path, CCLSLR_DRY_RUN=dry)
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(sections, "ok")
    assert code == 0
    assert sections["train_jpeg_gpu"]["result"] == {"rate": 1}
    assert sections["short_run"]["result"] == [{"step": 5, "loss": 12.5}]
    trained = [call for call in calls if call.startswith("-m cclslr bench train")]
    assert len(trained) == 8
    assert all(("run.device=cpu" if dry else "run.device=cuda") in call for call in trained)
    assert all(("r3d10_narrow" in call) == bool(dry) for call in trained)


def test_a_failure_is_booked_and_the_rest_goes_on(tmp_path):
    code, sections, calls = run(tmp_path, fail="cclslr pack")
    assert code == 1
    failed = {name for name, section in sections.items() if section["status"] != "ok"}
    assert failed == {"pack"}
    assert sections["pack"]["status"] == "failed (3)"
    assert sections["pack"]["log_end"] == ["went wrong"]
    assert sum("cclslr pack" in call for call in calls) == 1
    assert any("cclslr plan" in call for call in calls)


def test_no_time_left_is_no_success(tmp_path):
    code, sections, calls = run(tmp_path, SUITE_SECONDS="0")
    assert code == 1
    assert {section["status"] for section in sections.values()} == {"no time left"}
    assert all(call.startswith("- ") for call in calls)


def test_losses_that_are_not_finite_fail_the_short_run(tmp_path):
    code, sections, _ = run(tmp_path, loss="NaN")
    assert code == 1
    assert sections["short_run"]["status"] == "failed (1)"


def test_help_for_a_wrong_call():
    answer = subprocess.run([SUITE], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "CCLSLR_DRY_RUN=1" in answer.stdout
