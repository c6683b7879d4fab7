"""The card of a data set, against what was put in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cclslr.keypoints import WHOLEBODY
from cclslr.shards.format import ManifestRow, RawClip
from cclslr.shards.pack import PackOptions, pack

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Known:
    """50 frames at 25 a second; the left hand is seen in the first `seen` frames, the nose not in the first."""

    seen: int

    def load(self) -> RawClip:
        pose = np.ones((50, 133, 3), dtype=np.float32)
        pose[self.seen :, list(WHOLEBODY["left_hand"]), 2] = 0.1
        pose[0, 0, 1] = np.nan
        as_stored = {"as_stored": ["interlaced"]} if self.seen < 10 else {}
        return RawClip(None, pose, 25.0, {"pose": {"estimator": "one"}} | as_stored)


def test_card_says_what_was_packed(tmp_path: Path) -> None:
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [ManifestRow(f"k{n}", Known(5 * n), n % 2, "g", split, f"s{n}") for n, split in enumerate(splits)]
    rows.append(ManifestRow("bad", Known(0), None, None, "train", None))
    pack(rows, tmp_path / "set", PackOptions(clips_per_shard=3, licence_note="CC BY 4.0"), workers=0)
    done = subprocess.run(
        [sys.executable, "-m", "cclslr", "describe", str(tmp_path / "set"), "--workers", "0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "set" / "CARD.md").read_text()
    for line in (
        "| train | 6 | 0.00 | 2 | 6 |",
        "| all | 10 | 0.01 | 2 | 10 |",
        "- training clips a class: 3 to 3, median 3",
        "- signers in both train and test: 0",
        "- seconds: 2.00 to 2.00, median 2.00",
        "- rejected while packing: 1",
        "- interlaced: 2 clips, packed as their files store them",
        "- points with a number that is not finite, taken as not found: 10",
        f"| left hand | {100 * sum(5 * n for n in range(10)) / 500:.1f} % |",
        "| right hand | 100.0 % |",
        "- estimator: estimator one (100.0 %)",
        "- licence, as noted by who packed it: CC BY 4.0",
    ):
        assert line in text, f"{line}\nnot in\n{text}"
    assert "content hash" in done.stdout
