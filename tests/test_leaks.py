"""Leaks: the same take under other names, sizes, codecs and mirrored is found; another take of the sign is not."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cclslr.commands import check, pack
from cclslr.console import console
from cclslr.datasets.base import Import
from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.shards.format import BadClip, ManifestRow, RawClip
from cclslr.shards.leak_search import search_rows
from cclslr.shards.leaks import agreement, find_leaks, signature

SWAPPED = np.arange(133)
for left, right in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10)):
    SWAPPED[[left, right]] = right, left
SWAPPED[91:112], SWAPPED[112:133] = np.arange(112, 133), np.arange(91, 112)


@dataclasses.dataclass(frozen=True)
class Given:
    """A `ClipSource` of a clip that is there already."""

    clip: RawClip

    def load(self) -> RawClip:
        if self.clip.fps == 0:
            raise BadClip("no clip")
        return self.clip


@pytest.fixture(scope="module")
def clips() -> list[RawClip]:
    """Three signs, two takes of each by other signers."""
    options = SynthOptions(classes=3, clips_per_class=(2, 0, 0), signers=(2, 0, 0), size=96, seed=5)
    return [row.source.load() for row in manifest(options)]


def trimmed(clip: RawClip) -> RawClip:
    assert clip.frames_THWC is not None
    assert clip.keypoints_TKC is not None
    return dataclasses.replace(clip, frames_THWC=clip.frames_THWC[3:-5], keypoints_TKC=clip.keypoints_TKC[3:-5])


def resized(clip: RawClip) -> RawClip:
    assert clip.frames_THWC is not None
    assert clip.keypoints_TKC is not None
    frames_THWC = np.stack([np.asarray(Image.fromarray(frame).resize((48, 48))) for frame in clip.frames_THWC])
    return dataclasses.replace(clip, frames_THWC=frames_THWC, keypoints_TKC=clip.keypoints_TKC * (0.5, 0.5, 1))


def mirrored(clip: RawClip) -> RawClip:
    assert clip.frames_THWC is not None
    assert clip.keypoints_TKC is not None
    keypoints_TKC = clip.keypoints_TKC[:, SWAPPED].copy()
    keypoints_TKC[..., 0] = (96 - keypoints_TKC[..., 0]) * (keypoints_TKC[..., 2] > 0)
    return dataclasses.replace(clip, frames_THWC=clip.frames_THWC[:, :, ::-1], keypoints_TKC=keypoints_TKC)


@pytest.mark.parametrize("change", [trimmed, resized, mirrored, lambda clip: clip])
@pytest.mark.parametrize("without", [None, "frames_THWC", "keypoints_TKC"])
def test_a_copy_is_found_and_nothing_else(clips: list[RawClip], change, without: str | None) -> None:
    chosen = 2
    copy = change(clips[chosen])
    if without is not None:
        copy = dataclasses.replace(copy, **{without: None})
    signatures = [signature(clip) for clip in [*clips, copy]]
    leaks = find_leaks(signatures, ["train"] * len(clips) + ["test"])
    assert [(leak.first, leak.second) for leak in leaks] == [(chosen, len(clips))]
    assert leaks[0].mirrored == (change is mirrored)
    if without is None and change not in (trimmed, resized, mirrored):
        assert leaks[0].kind == "bytes"
    assert not find_leaks(signatures, ["train"] * len(signatures))


def test_agreement_is_found_at_any_shift() -> None:
    rng = np.random.default_rng(0)
    a_TD = rng.normal(size=(60, 20))
    assert agreement(a_TD, a_TD[10:]) == pytest.approx(1, abs=1e-5)
    assert agreement(a_TD[20:], a_TD[:55]) > 0.8
    assert agreement(a_TD, rng.normal(size=(50, 20))) < 0.3
    halves = np.concatenate([a_TD[:30], rng.normal(size=(30, 20))])
    assert agreement(a_TD, halves) < 0.8


def test_a_clip_that_is_still_or_broken_is_no_leak(clips: list[RawClip]) -> None:
    still = RawClip(np.zeros((30, 32, 32, 3), np.uint8), np.zeros((30, 133, 3), np.float32), 25.0)
    other = dataclasses.replace(still, frames_THWC=np.ones((30, 32, 32, 3), np.uint8))
    broken = dataclasses.replace(still, fps=0.0)
    given = [(still, "train"), (other, "test"), (broken, "test"), (still, "val")]
    rows = [ManifestRow(str(n), Given(clip), 0, "a", split, None) for n, (clip, split) in enumerate(given)]
    search = search_rows(rows, 0, None)
    assert [(leak.first, leak.second, leak.kind) for leak in search.leaks] == [(0, 3, "bytes")]
    assert search.unread == ["2"]
    assert search.still == 3


def test_packing_drops_and_checking_finds(
    clips: list[RawClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ManifestRow(f"c{n}", Given(clip), 0, "a", "train", f"s{n % 2}") for n, clip in enumerate(clips)]
    rows.append(ManifestRow("copy", Given(trimmed(clips[1])), 0, "a", "test", "s1"))
    args = ["synthetic", "--workers", "0"]

    def run(out: str, *more: str) -> tuple[int, str]:
        parsed = pack.parse([*args, "--out", str(tmp_path / out), "--codec", "jpeg", *more])
        report = pack.importers()["synthetic"].load(parsed).report
        parsed.load, parsed.workers = lambda _: Import(list(rows), ["a"], report), 1
        monkeypatch.setattr(pack, "parse", lambda _: parsed)
        with console.capture() as said:
            code = pack.main()
        monkeypatch.undo()
        return code, said.get()

    assert run("whole")[0] == 0
    code, said = run("clean", "--drop-leaks")
    assert code == 3
    assert "1 clips are the same take as one of another split and are left out" in said
    assert "1 signers train and are tested" in said
    rejected = list(csv.DictReader((tmp_path / "clean" / "rejected.csv").open()))
    assert [row["key"] for row in rejected] == ["c1"]
    assert rejected[0]["reason"].startswith("the same take as a clip to test on: copy, ")

    with console.capture() as captured:
        assert check.main(["--leaks", str(tmp_path / "whole"), "--out", str(tmp_path / "leaks.csv")]) == 3
    assert "test copy is train c1: " in captured.get()
    assert "1 signers train and are tested or validated on: s1" in captured.get()
    found = list(csv.DictReader((tmp_path / "leaks.csv").open()))
    assert [(row["clip"], row["other_clip"]) for row in found] == [("c1", "copy")]
    assert check.main(["--leaks", str(tmp_path / "clean")]) == 0
    with console.capture() as captured:
        assert check.main(["--leaks", str(tmp_path / "clean"), str(tmp_path / "whole")]) == 3
    assert "2 leaks in 13 clips" in captured.get()  # whole's c1 is the copy of either; what both train on is no leak
