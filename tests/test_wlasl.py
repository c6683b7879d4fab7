"""WLASL: exact counts on the official lists, and the traps of its frame numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr.datasets import wlasl
from cclslr.datasets.base import Import, VideoFile
from cclslr.datasets.media import Probe, probe_video
from cclslr.shards.format import BadClip

WriteVideo = Callable[..., Path]


def load(*arguments: Any) -> Import:
    parser = argparse.ArgumentParser()
    wlasl.add_arguments(parser)
    return wlasl.load(parser.parse_args([str(argument) for argument in arguments]))


def instance(video_id: str = "00001", **changes: Any) -> dict[str, Any]:
    return {
        "bbox": [4, 2, 60, 46],
        "fps": 25,
        "frame_end": -1,
        "frame_start": 1,
        "instance_id": 0,
        "signer_id": 7,
        "source": "web",
        "split": "train",
        "url": "http://x/y.mp4",
        "variation_id": 0,
        "video_id": video_id,
    } | changes


@pytest.fixture
def data_set(tmp_path: Path, write_video: WriteVideo) -> Callable[..., Import]:
    """Write a list of instances of the word `book` and a file each; load them."""

    def make(instances: list[dict[str, Any]], files: dict[str, tuple[int, int]], *arguments: Any) -> Import:
        (tmp_path / "WLASL_v0.3.json").write_text(json.dumps([{"gloss": "book", "instances": instances}]))
        (tmp_path / "videos").mkdir(exist_ok=True)
        for video_id, (frames, fps) in files.items():
            write_video(tmp_path / "videos" / f"{video_id}.mp4", frames, fps)
        return load("--annotations", tmp_path, "--videos", tmp_path / "videos", *arguments)

    return make


def source(result: Import, number: int = 0) -> VideoFile:
    clip = result.rows[number].source
    assert isinstance(clip, VideoFile)
    return clip


@pytest.mark.parametrize(
    ("subset", "train", "val", "test"),
    [(100, 1442, 338, 258), (300, 3549, 900, 668), (1000, 8974, 2318, 1876), (2000, 14289, 3916, 2878)],
)
def test_official_counts(annotations: Path, tmp_path: Path, subset: int, train: int, val: int, test: int) -> None:
    report = load("--annotations", annotations / "wlasl", "--videos", tmp_path, "--subset", subset).report
    assert report.splits == {"train": train, "val": val, "test": test}
    assert report.rows == train + val + test == len(report.missing)
    assert (report.classes, report.found, report.duplicates, report.rejected) == (subset, 0, [], [])
    assert any("as published" in note for note in report.notes)
    assert report.classes_without_test == (["caterpillar"] if subset == 2000 else [])


@pytest.mark.parametrize(("name", "subset"), [("nslt_300.json", 300), ("nslt_2000.json", 2000)])
def test_nslt_gives_the_same_clips_and_ignores_its_extras(
    annotations: Path, tmp_path: Path, name: str, subset: int
) -> None:
    from_v03 = load("--annotations", annotations / "wlasl", "--videos", tmp_path, "--subset", subset)
    from_nslt = load("--annotations", annotations / "wlasl" / name, "--videos", tmp_path, "--subset", subset)
    assert sorted(from_nslt.report.missing) == sorted(from_v03.report.missing)
    assert from_nslt.report.splits == from_v03.report.splits
    extras = next(note for note in from_nslt.report.notes if "ignored" in note)
    assert "20065" in extras
    assert ("60721" in extras) == (subset == 2000)


def test_part_of_the_official_videos(annotations: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    document = json.loads((annotations / "wlasl" / "WLASL_v0.3.json").read_text())
    listed = {i["video_id"]: (label, i) for label, gloss in enumerate(document[:100]) for i in gloss["instances"]}
    chosen = sorted(listed)[::40]
    for video_id in chosen:
        write_video(tmp_path / f"{video_id}.mp4", 12)
    result = load("--annotations", annotations / "wlasl", "--videos", tmp_path, "--subset", 100)
    assert {row.key: (row.label, row.split) for row in result.rows} == {
        video_id: (listed[video_id][0], listed[video_id][1]["split"]) for video_id in chosen
    }
    assert result.report.found == len(chosen)
    assert len(result.report.missing) == 2038 - len(chosen)
    assert result.classes[:2] == ["book", "drink"]


def test_lengths_of_cut_files_are_recognised(annotations: Path) -> None:
    """The nslt list gives the length of each cut file: none of them may be cut again."""
    lengths = json.loads((annotations / "wlasl" / "nslt_2000.json").read_text())
    verdicts = []
    for gloss in json.loads((annotations / "wlasl" / "WLASL_v0.3.json").read_text()):
        for i in gloss["instances"]:
            _, first, length = lengths[i["video_id"]]["action"]
            if (i["frame_start"] > 1 or i["frame_end"] != -1) and first == 1:
                verdicts.append(wlasl.judge(i["frame_start"], i["frame_end"], Probe(length, 25.0, 1, 1)))
    assert len(verdicts) == 1827
    assert set(verdicts) == {"trimmed"}


def test_a_start_beyond_a_cut_file_is_not_applied(data_set: Callable[..., Import]) -> None:
    result = data_set([instance(frame_start=7686, frame_end=7832)], {"00001": (20, 25)})
    assert source(result).frames is None
    assert source(result).seconds is None
    assert len(source(result).load().frames_THWC) == 20
    assert result.report.conventions["files"].startswith("trimmed")


def test_a_source_video_is_cut_inclusively(data_set: Callable[..., Import]) -> None:
    result = data_set([instance(frame_start=11, frame_end=30)], {"00001": (60, 25)})
    frames = source(result).load().frames_THWC
    assert source(result).frames == (10, 30)
    assert len(frames) == 20
    assert abs(int(frames[0].mean()) - 50) <= 2  # frame 11 of the file, whose grey is 40 + its number from 0
    assert result.report.conventions["files"].startswith("untrimmed")


def test_end_minus_one_with_a_start(data_set: Callable[..., Import]) -> None:
    result = data_set([instance(frame_start=3, frame_end=-1)], {"00001": (20, 25)})
    assert source(result).frames == (2, None)
    assert len(source(result).load().frames_THWC) == 18


def test_a_source_video_at_30_fps_is_cut_by_time(data_set: Callable[..., Import]) -> None:
    """Frames 26 to 50 at 25 fps are seconds 1 to 2."""
    result = data_set([instance(frame_start=26, frame_end=50)], {"00001": (120, 30)})
    assert source(result).seconds == (1.0, 2.0)
    clip = source(result).load()
    assert len(clip.frames_THWC) == 30
    assert clip.meta["span"] == [30, 60]


def test_an_unclear_file_goes_with_the_majority(data_set: Callable[..., Import]) -> None:
    """A file longer than the start and shorter than the end may be either; most others here are cut."""
    instances = [instance(f"{n:05d}", frame_start=500, frame_end=519) for n in range(3)]
    instances.append(instance("00009", frame_start=21, frame_end=120))
    result = data_set(instances, {f"{n:05d}": (20, 25) for n in range(3)} | {"00009": (40, 25)})
    assert source(result, 3).frames is None
    assert "1 unclear (taken as trimmed)" in result.report.conventions["files"]


@given(
    start=st.integers(1, 5000),
    length=st.integers(1, 400),
    frames=st.integers(1, 6000),
    fps=st.sampled_from((25.0, 29.97, 30.0)),
)
@settings(deadline=None)
def test_a_cut_never_begins_beyond_its_file(start: int, length: int, frames: int, fps: float) -> None:
    probe = Probe(frames, fps, 64, 48)
    if wlasl.judge(start, start + length - 1, probe) != "trimmed":
        span = wlasl.cut(start, start + length - 1, probe)
        begin = span["frames"][0] / fps if "frames" in span else span["seconds"][0]
        assert begin < probe.seconds


def test_files_of_another_size_lose_their_boxes(data_set: Callable[..., Import]) -> None:
    kept = data_set([instance()], {"00001": (5, 25)})
    assert source(kept).box == (4.0, 2.0, 60.0, 46.0)
    resized = data_set([instance(bbox=[385, 37, 885, 720])], {"00001": (5, 25)})
    assert source(resized).box is None
    assert resized.report.conventions["signer boxes"].startswith("ignored")


def test_missing_duplicate_and_rejected_rows_are_all_booked(data_set: Callable[..., Import]) -> None:
    rows = [
        instance("00001"),
        instance("00001", split="test"),
        instance("00002"),
        instance("00003", split="dev"),
        instance("00004", frame_start=0),
        instance("00005", frame_start=9, frame_end=3),
    ]
    report = data_set(rows, {"00001": (5, 25)}).report
    assert (report.rows, report.found) == (6, 1)
    assert [Path(path).name for path in report.missing] == ["00002.mp4"]
    assert len(report.duplicates) == 1
    assert "00001" in report.duplicates[0]
    assert len(report.rejected) == 3
    assert "dev" in report.rejected[0]
    assert report.to_json()["missing"] == 1


def test_dead_files_are_found_and_rejected_with_a_reason(data_set: Callable[..., Import], tmp_path: Path) -> None:
    data_set([instance("00001"), instance("00002")], {"00001": (30, 25), "00002": (5, 25)})
    whole = (tmp_path / "videos" / "00001.mp4").read_bytes()
    (tmp_path / "videos" / "00001.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "videos" / "00002.mp4").write_bytes(b"")
    result = load("--annotations", tmp_path, "--videos", tmp_path / "videos")
    assert result.report.found == 2
    for row in result.rows:
        with pytest.raises(BadClip):
            row.source.load()


def test_poses_follow_their_clips(data_set: Callable[..., Import], tmp_path: Path) -> None:
    poses = tmp_path / "poses"
    poses.mkdir()
    np.savez(poses / "00001.npz", keypoints=np.ones((40, 133, 3), dtype=np.float32))  # of the whole file
    np.savez(poses / "00002.npz", keypoints=np.ones((9, 133, 3), dtype=np.float32))  # of another video
    rows = [instance("00001", frame_start=11, frame_end=15), instance("00002"), instance("00003")]
    result = data_set(rows, {"00001": (40, 25), "00002": (5, 25), "00003": (5, 25)}, "--poses", poses)
    assert source(result).load().keypoints_TKC.shape == (5, 133, 3)
    with pytest.raises(BadClip, match="9 frames"):
        source(result, 1).load()
    assert result.report.missing == [str(poses / "00003.npz")]


def test_cut_and_uncut_copies_in_one_folder_are_noted(data_set: Callable[..., Import], tmp_path: Path) -> None:
    assert data_set([instance("00001")], {"00001": (5, 25)}).report.notes[-1].endswith("The list was edited")
    result = data_set([instance("00001")], {"raw/00001": (9, 25)})
    assert any("1 file names occur in several folders" in note for note in result.report.notes)
    assert source(result).path == str(tmp_path / "videos" / "00001.mp4")


def test_a_container_that_does_not_count_its_frames(tmp_path: Path, write_video: WriteVideo) -> None:
    probe = probe_video(write_video(tmp_path / "00001.mkv", 23, 25))
    assert probe == Probe(23, 25.0, 64, 48)
    assert probe_video(tmp_path / "gone.mp4") is None


def test_poses_alone(data_set: Callable[..., Import], tmp_path: Path) -> None:
    data_set([instance("00001")], {})
    np.savez(tmp_path / "00001.npz", keypoints=np.ones((40, 133, 3), dtype=np.float32))
    result = load("--annotations", tmp_path, "--poses", tmp_path)
    assert source(result).load().frames_THWC is None


def test_a_path_with_other_letters(tmp_path: Path, write_video: WriteVideo) -> None:
    folder = tmp_path / "手语 vidéos"
    write_video(folder / "00001.mp4", 6)
    (tmp_path / "WLASL_v0.3.json").write_text(json.dumps([{"gloss": "café", "instances": [instance()]}]))
    result = load("--annotations", tmp_path / "WLASL_v0.3.json", "--videos", folder)
    assert len(source(result).load().frames_THWC) == 6
    assert result.rows[0].gloss == "café"


@pytest.mark.parametrize("text", ["[1, 2", '"text"', "[]", "{}"])
def test_no_list_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "WLASL_v0.3.json").write_text(text)
    with pytest.raises(ValueError, match=r"WLASL_v0\.3\.json"):
        load("--annotations", tmp_path, "--videos", tmp_path)
