"""What `tools/gpu_suite.sh` found: its sections so far in one file, and a verdict against the targets.

    python -m cclslr.bench.suite OUT_FOLDER          reads sections.tsv, NAME.json and NAME.log; writes suite.json

The suite calls it after each section, so that a suite that is killed leaves what it measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cclslr.files import write_json

STATUS = {"0": "ok", "124": "timed out", "137": "killed", "skipped": "no time left", "running": "interrupted"}
PLACEMENTS = ("train_numba", "train_jpeg_gpu", "train_video_libav", "train_video_nvdec")


@dataclass(frozen=True)
class Verdict:
    """One target of the project, and what was measured."""

    target: str
    measured: float | None  # None: not measured
    met: bool | None
    where: str  # the section that it comes from


def sections(folder: Path) -> dict[str, dict[str, Any]]:
    """The sections in the order in which they ran, with whatever each has left in the folder."""
    found: dict[str, dict[str, Any]] = {}
    for line in (folder / "sections.tsv").read_text(encoding="utf-8").splitlines():
        name, code, seconds = line.split("\t")  # a section has a line when it begins, and another when it ends
        result, log = folder / f"{name}.json", folder / f"{name}.log"
        found[name] = {
            "status": STATUS.get(code, f"failed ({code})"),
            "seconds": int(seconds),
            "result": json.loads(result.read_text(encoding="utf-8")) if result.exists() else None,
            "log_end": log.read_text(errors="replace").splitlines()[-15:] if log.exists() else [],
        }
    return found


def verdict(found: dict[str, dict[str, Any]]) -> list[Verdict]:
    """The targets: a loader twice as fast as the step, no stall, 40 % of the peak, 1.5 times the plain step.

    Loader and stall are those of the placement that trains fastest.
    """
    trained = {
        name: result
        for name in PLACEMENTS
        if (result := _result(found, name)) and "real" in result.get("modes", {})
    }  # fmt: skip
    best = max(trained, key=lambda name: trained[name]["modes"]["real"]["clips_per_second"], default="")
    placed = trained.get(best, {})

    def judge(target: str, value: float | None, meets: Callable[[float], bool], where: str) -> Verdict:
        return Verdict(target, value, None if value is None else meets(value), where)

    return [
        judge("loader >= 2 x step", placed.get("supply_over_replay"), lambda x: x >= 2, best),
        judge("stall <= 1 %", placed.get("stall_share"), lambda x: x <= 0.01, best),
        judge("MFU >= 40 %", _result(found, "step").get("mfu"), lambda x: x >= 0.4, "step"),
        judge("step >= 1.5 x plain", _result(found, "plain").get("lean_over_plain"), lambda x: x >= 1.5, "plain"),
    ]


def _result(found: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    result = found.get(name, {}).get("result")
    return result if isinstance(result, dict) else {}


def main(folder: Path) -> int:
    """Write suite.json and print the verdict; 1 if a section is not ok."""
    found = sections(folder)
    judged = verdict(found)
    write_json(folder / "suite.json", {"tool": "gpu_suite", "verdict": [asdict(v) for v in judged], "sections": found})
    for v in judged:
        value = "not measured" if v.measured is None else f"{v.measured:.3g}, {'met' if v.met else 'NOT met'}"
        print(f"{v.target}: {value}{f' ({v.where})' if v.where else ''}")
    bad = [f"{name} {section['status']}" for name, section in found.items() if section["status"] != "ok"]
    print("all sections passed" if not bad else f"not ok: {', '.join(bad)}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
