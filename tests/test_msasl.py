"""MS-ASL: exact counts on the official lists, and the traps of its URLs, boxes and spans."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cclslr.datasets import msasl
from cclslr.datasets.base import Import, VideoFile
from cclslr.datasets.media import Probe

WriteVideo = Callable[..., Path]
ID = "ri3NrdgfAtE"


def load(*arguments: Any) -> Import:
    parser = argparse.ArgumentParser()
    msasl.add_arguments(parser)
    return msasl.load(parser.parse_args([str(argument) for argument in arguments]))


def clip(**changes: Any) -> dict[str, Any]:
    row = {
        "org_text": "absent",
        "clean_text": "absent",
        "text": "absent",
        "label": 0,
        "url": f"https://www.youtube.com/watch?v={ID}",
        "start_time": 0.0,
        "end_time": 1.0,
        "fps": 25.0,
        "file": "ASL ABSENT",
        "signer_id": 114,
        "signer": -1,
        "box": [0.1, 0.2, 0.9, 0.7],
        "width": 64.0,
        "height": 48.0,
    } | changes
    frames = {"start": round(row["start_time"] * row["fps"]), "end": round(row["end_time"] * row["fps"])}
    return frames | row


@pytest.fixture
def data_set(tmp_path: Path, write_video: WriteVideo) -> Callable[..., Import]:
    """Write a training list and files of so many frames at so many fps; load them."""

    def make(rows: list[dict[str, Any]], files: dict[str, tuple[int, int]], *arguments: Any) -> Import:
        (tmp_path / "MSASL_train.json").write_text(json.dumps(rows))
        (tmp_path / "videos").mkdir(exist_ok=True)
        for name, (frames, fps) in files.items():
            write_video(tmp_path / "videos" / f"{name}.mp4", frames, fps)
        return load("--annotations", tmp_path, "--videos", tmp_path / "videos", *arguments)

    return make


def source(result: Import, number: int = 0) -> VideoFile:
    video = result.rows[number].source
    assert isinstance(video, VideoFile)
    return video


@pytest.mark.parametrize(
    ("subset", "train", "val", "test", "repeated"),
    [
        (100, 3790, 1190, 757, 15),
        (200, 6321, 2041, 1359, 24),
        (500, 11403, 3702, 2720, 43),
        (1000, 16054, 5287, 4172, 51),
    ],
)
def test_official_counts(
    annotations: Path, tmp_path: Path, subset: int, train: int, val: int, test: int, repeated: int
) -> None:
    """One row of the training list has a span of no length, and 51 repeat another row."""
    report = load("--annotations", annotations / "msasl", "--videos", tmp_path, "--subset", subset).report
    assert report.splits == {"train": train, "val": val, "test": test}
    assert report.rows == train + val + test
    assert (report.classes, report.classes_without_test) == (subset, [])
    assert len(report.duplicates) == repeated
    assert all(line.startswith("MSASL_train.json") for line in report.duplicates)
    assert report.rejected == ["MSASL_train.json, row 2350: 133.7 s to 133.7 s is no span"]
    assert len(report.missing) == report.rows - repeated - 1
    assert any("as published" in note for note in report.notes)


def test_part_of_the_official_videos(annotations: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    rows = json.loads((annotations / "msasl" / "MSASL_test.json").read_text())
    ids = sorted({msasl.youtube_id(row["url"]) for row in rows if row["end_time"] < 20})[::60]
    for video_id in ids:
        write_video(tmp_path / f"{video_id}.mp4", 200, 10)
    result = load("--annotations", annotations / "msasl", "--videos", tmp_path)
    tests = {row.key: row for row in result.rows if row.split == "test"}
    expected = [
        f"test_{index:05d}"
        for index, row in enumerate(rows)
        if msasl.youtube_id(row["url"]) in ids and row["start_time"] < 19.9
    ]
    assert sorted(tests) == expected
    assert all(rows[int(key[5:])]["label"] == row.label for key, row in tests.items())
    assert result.report.conventions["names"].startswith("{id}")


@pytest.mark.parametrize(
    "url",
    [
        f"https://www.youtube.com/watch?v={ID}",
        f"www.youtube.com/watch?v={ID}",
        f"youtube.com/watch?v={ID}&t=170s",
        f"https://www.youtube.com/watch?list=x&v={ID}",
        f"https://youtu.be/{ID}",
        f"http://www.youtube.com/embed/{ID}?start=3",
    ],
)
def test_urls(url: str) -> None:
    assert msasl.youtube_id(url) == ID


@pytest.mark.parametrize("url", [None, 7, "", "https://www.youtube.com/watch?v=short", "https://aslpro.com/a.mp4"])
def test_urls_that_name_no_video(url: Any) -> None:
    assert msasl.youtube_id(url) is None


def test_every_official_url_names_a_video(annotations: Path) -> None:
    for split in ("train", "val", "test"):
        rows = json.loads((annotations / "msasl" / f"MSASL_{split}.json").read_text())
        assert None not in {msasl.youtube_id(row["url"]) for row in rows}


def test_boxes_are_turned_from_yx_to_xy(data_set: Callable[..., Import]) -> None:
    result = data_set([clip()], {ID: (60, 25)})
    assert source(result).box == (0.2, 0.1, 0.7, 0.9)
    assert source(result).load().meta["box"] == pytest.approx([0.2 * 64, 0.1 * 48, 0.7 * 64, 0.9 * 48])


@pytest.mark.parametrize("fps", [25, 30])
def test_seconds_are_cut_whatever_the_frame_rate(data_set: Callable[..., Import], fps: int) -> None:
    """The frames of the list are those of the original at 25 fps; the download may run at 30."""
    result = data_set([clip(start_time=1.0, end_time=2.0), clip(start_time=0.2, end_time=0.8)], {ID: (4 * fps, fps)})
    assert source(result).seconds == (1.0, 2.0)
    loaded = source(result).load()
    assert loaded.meta["span"] == [fps, 2 * fps]
    assert result.report.conventions["files"].startswith("untrimmed: 0 clips are whole files, 2 are cut")


def test_a_variable_frame_rate_is_cut_by_time(data_set: Callable[..., Import], tmp_path: Path) -> None:
    """One second of 30 frames, then one of 10, then one of 20: the middle second has 10."""
    times = [n / 30 for n in range(30)] + [1 + n / 10 for n in range(10)] + [2 + n / 20 for n in range(20)]
    (tmp_path / "videos").mkdir()
    with av.open(str(tmp_path / "videos" / f"{ID}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + number, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 600), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = data_set([clip(start_time=1.0, end_time=2.0)], {})
    frames = source(result).load().frames_THWC
    assert len(frames) == 10
    assert abs(int(frames[0].mean()) - 70) <= 2


def test_files_that_are_cut_already_are_used_whole(data_set: Callable[..., Import]) -> None:
    result = data_set([clip(start_time=30.0, end_time=31.0)], {"train_00000": (25, 25)})
    assert source(result).seconds is None
    assert result.report.conventions["names"] == "{split}_{index:05d} (1 of 1 clips found)"
    assert result.report.conventions["files"].startswith("trimmed")


def test_names_of_the_users_own(data_set: Callable[..., Import]) -> None:
    files = {"absent/train-0": (25, 25)}
    assert data_set([clip(start_time=9.0, end_time=10.0)], files, "--names", "{text}/{split}-{index}").report.found == 1
    with pytest.raises(ValueError, match="known fields: id, split"):
        data_set([clip()], {}, "--names", "{video}")


def test_a_shared_file_that_ends_too_early_is_no_clip(data_set: Callable[..., Import]) -> None:
    result = data_set([clip(), clip(start_time=70.0, end_time=72.0)], {ID: (50, 25)})
    assert [row.key for row in result.rows] == ["train_00000"]
    assert "starts at 70 s" in result.report.rejected[0]


def test_two_takes_under_one_span_are_told_apart_by_their_frames(data_set: Callable[..., Import]) -> None:
    """Four pairs of the official list share their seconds; their frames say which half is which."""
    rows = [clip(end_time=4.0, start=50, end=100), clip(end_time=4.0, start=0, end=50)]
    result = data_set(rows, {ID: (150, 25)})
    assert [source(result, number).seconds for number in (0, 1)] == [(2.0, 4.0), (0.0, 2.0)]


def test_the_official_pairs_are_told_apart(annotations: Path, tmp_path: Path) -> None:
    report = load("--annotations", annotations / "msasl", "--videos", tmp_path).report
    for first in (5125, 6870, 10431, 10527):
        assert not any(f"row {first + 1}:" in line for line in report.duplicates)


def test_repeated_rows_of_one_split_only_are_duplicates(tmp_path: Path, data_set: Callable[..., Import]) -> None:
    """A test clip is never dropped because the training list has it, too."""
    (tmp_path / "MSASL_test.json").write_text(json.dumps([clip()]))
    result = data_set([clip(), clip(url=f"www.youtube.com/watch?v={ID}&t=3s")], {ID: (60, 25)})
    assert [row.key for row in result.rows] == ["train_00000", "test_00000"]
    assert result.report.duplicates == ["MSASL_train.json, row 1: repeats MSASL_train.json, row 0"]


def test_broken_rows_are_rejected_one_by_one(data_set: Callable[..., Import]) -> None:
    rows: list[Any] = [clip(), clip(label="hello"), clip(url=None), clip(start_time=3.0, end_time=2.0), None]
    report = data_set(rows, {ID: (60, 25)}).report
    assert (report.rows, report.found, len(report.rejected)) == (5, 1, 4)


def test_a_box_that_is_none_costs_the_box_only(data_set: Callable[..., Import]) -> None:
    assert source(data_set([clip(box=[0.9, 0.2, 0.1, 0.7])], {ID: (60, 25)})).box is None


@pytest.mark.parametrize(
    ("start", "end", "seconds", "shared", "verdict"),
    [
        (0.0, 2.0, 2.1, False, "trimmed"),
        (0.0, 2.0, 60.0, False, "untrimmed"),
        (50.0, 52.0, 60.0, False, "untrimmed"),
        (50.0, 52.0, 2.0, False, "trimmed"),
        (50.0, 52.0, 2.0, True, "beyond"),
        (0.0, 2.0, 2.0, True, "untrimmed"),
    ],
)
def test_judge(start: float, end: float, seconds: float, shared: bool, verdict: str) -> None:
    assert msasl.judge(start, end, Probe(round(seconds * 25), 25.0, 1, 1), shared) == verdict
