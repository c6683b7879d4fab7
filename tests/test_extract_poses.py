"""Pose extraction: one person a clip, the two backends, restarts.

The backends' own tests skip where the extras are absent; run them with the Python of the environment that has one.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cclslr import poses
from cclslr.commands import pack
from cclslr.datasets.base import VideoFile
from cclslr.errors import ExitCode, UserError
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.poses import (
    EstimatorOptions,
    backends,
    complete,
    estimate,
    extract,
    holistic,
    open_estimator,
    rtmpose,
)
from cclslr.poses.person import choose, fill, link, overlap
from cclslr.shards.dot_pose import write_dot_pose
from cclslr.shards.format import BadClip
from cclslr.shards.keypoint_file import load_keypoints
from cclslr.shards.reader import ShardSet

has_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="extra mediapipe is not installed"
)
has_rtmlib = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("rtmlib", "onnxruntime", "onnx")),
    reason="extra rtmpose, or onnx, is not installed",
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("cclslr.commands.poses")


class Stub:
    """An estimator that sees its frames' grey level; counts its calls."""

    name = "stub"
    version = "stub 1"
    calls = 0

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        Stub.calls += 1
        keypoints = np.ones((len(frames_THWC), NUM_WHOLEBODY, 3), dtype=np.float32)
        keypoints[..., 0] = frames_THWC.mean(axis=(1, 2, 3))[:, None]
        keypoints[1::2, 91:133] = 0  # hands in every second frame
        return keypoints


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    monkeypatch.setattr(extract, "_estimator", lambda options: Stub())
    Stub.calls = 0
    return Stub


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["extract_poses.py", "--workers", "0", *map(str, arguments)])
    return tool.main()


# One person a clip ---------------------------------------------------------------------------------------------------

boxes_st = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(a=st.lists(boxes_st, min_size=1, max_size=4), b=st.lists(boxes_st, min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_overlap_counts_pixels(a: list[tuple[int, ...]], b: list[tuple[int, ...]]) -> None:
    def pixels(box: tuple[int, ...]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = [[len(pixels(p) & pixels(q)) / len(pixels(p) | pixels(q)) for q in b] for p in a]
    assert np.allclose(overlap(np.array(a, dtype=float), np.array(b, dtype=float)), expected)


def two_people(frames: int) -> dict[int, np.ndarray]:
    """A signer in the middle who drifts, and a larger passer-by at the edge in the middle third."""
    boxes = {}
    for t in range(frames):
        found = [(100 + t, 50, 220 + t, 300)]
        if frames // 3 <= t < 2 * frames // 3:
            found.append((280, 0, 400, 300))
        boxes[t] = np.array(found, dtype=float)
    return boxes


@given(order=st.randoms(use_true_random=False), lost=st.sets(st.integers(0, 59), max_size=10))
@settings(deadline=None, max_examples=10)
def test_the_signer_is_kept_whatever_the_order_of_detections(order: Any, lost: set[int]) -> None:
    boxes = two_people(60)
    for t, found in boxes.items():
        rows = [tuple(box) for box in found if not (t in lost and box[0] < 250)]
        order.shuffle(rows)
        boxes[t] = np.array(rows, dtype=float).reshape(-1, 4)
    person = choose(link(boxes), 400, 300)
    assert person is not None
    assert person.frames == [t for t in range(60) if t not in lost]
    assert all(box[0] == 100 + t for t, box in zip(person.frames, person.boxes))


def test_gaps_are_bridged_and_ends_are_held() -> None:
    boxes = {t: np.array([[t, 0.0, 100 + t, 100]]) for t in (20, 25, 40)}
    person = choose(link(boxes, max_gap=15), 200, 100)
    assert person is not None
    filled, present = fill(person, 70, max_gap=15)
    assert np.array_equal(np.flatnonzero(present), np.arange(5, 56))
    assert np.allclose(filled[20:41, 0], np.arange(20, 41))
    assert filled[5, 0] == 20
    assert filled[55, 0] == 40


def test_nobody() -> None:
    assert choose(link({0: np.empty((0, 4)), 5: np.empty((0,))}), 10, 10) is None


@given(st.lists(st.permutations(range(4)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_track_says_which_detection_it_is(orders: list[list[int]]) -> None:
    """An estimator that finds people and their points together takes the points of these rows."""
    people = np.array([[0, 0, 10, 20], [30, 0, 45, 25], [60, 5, 80, 30], [100, 0, 130, 40]], dtype=float)
    boxes = {frame: people[list(order)] + 0.1 * frame for frame, order in enumerate(orders)}
    for track in link(boxes):
        assert track.frames == list(range(len(orders)))
        for frame, box, row in zip(track.frames, track.boxes, track.rows, strict=True):
            assert np.array_equal(boxes[frame][row], box)


# MediaPipe -----------------------------------------------------------------------------------------------------------


def landmarks(count: int, offset: float) -> SimpleNamespace:
    points = [SimpleNamespace(x=offset + i / 1000, y=offset - i / 1000, visibility=i / count) for i in range(count)]
    return SimpleNamespace(landmark=points)


def test_mapping_to_133_points() -> None:
    assert len(holistic.FACE) == len(set(holistic.FACE)) == 68
    result = SimpleNamespace(
        pose_landmarks=landmarks(33, 0.1),
        face_landmarks=landmarks(468, 0.2),
        left_hand_landmarks=landmarks(21, 0.3),
        right_hand_landmarks=None,
    )
    points = holistic.to_wholebody(result, 200, 100)
    assert points.shape == (133, 3)
    assert np.allclose(points[9], (200 * 0.115, 100 * 0.085, 15 / 33))  # left wrist is pose landmark 15
    assert np.allclose(points[17], points[18])  # MediaPipe has one toe
    assert np.allclose(points[53], (200 * 0.204, 100 * 0.196, 1))  # nose tip is mesh point 4
    assert np.allclose(points[91 + 8], (200 * 0.308, 100 * 0.292, 1))
    assert not points[112:].any()
    empty = SimpleNamespace(
        pose_landmarks=None, face_landmarks=None, left_hand_landmarks=None, right_hand_landmarks=None
    )
    assert not holistic.to_wholebody(empty, 200, 100).any()


def test_frames_of_another_person_are_emptied() -> None:
    keypoints = np.zeros((40, 133, 3), dtype=np.float32)
    for t in range(40):
        x = 300 if 10 <= t < 14 else 100  # for four frames a person at the edge is followed
        keypoints[t, :17] = np.random.default_rng(t).uniform((x, 50, 0.9), (x + 80, 200, 1), (17, 3))
    keypoints[20] = 0  # nobody is found
    kept = holistic.keep_one_person(keypoints, 400, 300)
    emptied = ~kept.any(axis=(1, 2))
    assert np.array_equal(np.flatnonzero(emptied), [10, 11, 12, 13, 20])
    assert np.array_equal(kept[~emptied], keypoints[~emptied])


@has_mediapipe
@pytest.mark.parametrize("name", ["pose_test_video", "asl_different"])
def test_mediapipe_reproduces_the_keypoints_of_real_clips(real: Path, name: str) -> None:
    """All five are compared by `extract_poses.py CLIPS --backend mediapipe --compare CLIPS` (docs/results/poses)."""
    theirs = np.load(real / "clips" / f"{name}.npz")["keypoints"]
    ours = estimate(real / "clips" / f"{name}.mp4", backend="mediapipe")
    distances = extract.compare(ours, theirs)
    for part in ("body", "face", "right_hand"):
        assert len(distances[part])
        assert np.median(distances[part]) < 0.5
        assert distances[f"missing_{part}"] <= 0.02 * len(distances[part])


# RTMPose -------------------------------------------------------------------------------------------------------------


@has_rtmlib
@given(seed=st.integers(0, 2**32 - 1), crops=st.integers(1, 3))
@settings(deadline=None, max_examples=10)
def test_simcc_decoding_against_plain_loops(seed: int, crops: int) -> None:
    from cclslr.poses.rtmpose import decode_simcc

    random = np.random.default_rng(seed)
    x, y = random.normal(0, 1, (crops, 133, 576)), random.normal(0, 1, (crops, 133, 768))
    x[0, 7], y[0, 7] = -1, -2  # no confidence: not found
    centres, scales = random.uniform(50, 400, (crops, 2)), random.uniform(50, 400, (crops, 2))
    points = decode_simcc(x.astype(np.float32), y.astype(np.float32), centres, scales, (288, 384))
    for n in range(crops):
        for k in range(133):
            column, row = int(np.argmax(x[n, k])), int(np.argmax(y[n, k]))
            confidence = (x[n, k, column] + y[n, k, row]) / 2
            expected = (
                centres[n, 0] - scales[n, 0] / 2 + column / 2 / 288 * scales[n, 0],
                centres[n, 1] - scales[n, 1] / 2 + row / 2 / 384 * scales[n, 1],
                confidence,
            )
            assert np.allclose(points[n, k], expected if confidence > 0 else 0, atol=1e-3)


def save_model(
    path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[Any], outputs: list[str]
) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def person_model(path: Path, boxes_N5: np.ndarray) -> Path:
    """A YOLOX with its suppression inside: (1, 3, 640, 640) → these boxes, scores last, (1, N, 5)."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["boxes", "nothing"], ["dets"]),
    ]
    constants = {"zero": np.zeros((), dtype=np.float32), "boxes": boxes_N5[None].astype(np.float32)}
    return save_model(path, nodes, constants, [1, 3, 640, 640], ["dets"])


def pose_model(path: Path, batch: Any = "batch") -> Path:
    """Inputs and outputs of RTMPose-x whole-body, (N, 3, 384, 288) → (N, 133, 576) and (N, 133, 768); every keypoint
    lies where the crop is brightest, keypoint k with the weight (k + 1) / 133."""
    from onnx import helper

    nodes, constants = [], {"weights": ((np.arange(133, dtype=np.float32) + 1) / 133).reshape(1, 133, 1)}
    for name, axes, size in (("simcc_x", [1, 2], 288), ("simcc_y", [1, 3], 384)):
        constants[f"{name}_twice"] = np.repeat(np.arange(size, dtype=np.int64), 2)
        constants[f"{name}_axis"] = np.array([1], dtype=np.int64)
        nodes += [
            helper.make_node("ReduceMax", ["input"], [f"{name}_profile"], axes=axes, keepdims=0),
            helper.make_node("Gather", [f"{name}_profile", f"{name}_twice"], [f"{name}_bins"], axis=1),
            helper.make_node("Unsqueeze", [f"{name}_bins", f"{name}_axis"], [f"{name}_row"]),
            helper.make_node("Mul", [f"{name}_row", "weights"], [name]),
        ]
    return save_model(path, nodes, constants, [batch, 3, 384, 288], ["simcc_x", "simcc_y"])


def moving_spot(path: Path, frames: int, size: tuple[int, int] = (320, 240)) -> list[tuple[float, float]]:
    """A dark video with a bright spot of 12 px that moves; returns its centres."""
    places = [(110 + 2 * t, 150 - t) for t in range(frames)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for x, y in places:
            image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
            image[y - 6 : y + 6, x - 6 : x + 6] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return [(float(x), float(y)) for x, y in places]


# In the detector's 640 px input, which is twice a 320x240 frame: the signer, and a smaller person at the edge.
PEOPLE = np.array([[560, 20, 638, 200, 0.95], [120, 40, 480, 460, 0.9], [0, 0, 640, 480, 0.1]])


@has_rtmlib
@pytest.mark.parametrize("batch", ["batch", 1])
def test_rtmpose_end_to_end_with_stand_in_models(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch: Any
) -> None:
    places = moving_spot(tmp_path / "clip.mp4", 21)
    models = ["--person-model", person_model(tmp_path / "p.onnx", PEOPLE)]
    models += ["--pose-model", pose_model(tmp_path / "k.onnx", batch)]
    assert run(tool, monkeypatch, tmp_path / "clip.mp4", "--out", tmp_path / "out", "--batch", 8, *models) == 0
    with np.load(tmp_path / "out" / "clip.npz") as file:
        keypoints, fps = file["keypoints"], float(file["fps"])
        assert str(file["estimator"]) == "rtmpose"
        assert "k, p" in str(file["version"])
    assert keypoints.dtype == np.float32
    assert keypoints.shape == (21, 133, 3)
    assert fps == 25
    # The spot is 12 px wide, and the first of equally bright columns wins.
    assert np.abs(keypoints[:, :, :2] - np.array(places)[:, None]).max() < 8
    confidence = keypoints[..., 2] / keypoints[:, -1:, 2]
    assert np.allclose(confidence, (np.arange(133) + 1) / 133, rtol=1e-4)


@has_rtmlib
def test_rtmpose_batches_change_nothing(tmp_path: Path) -> None:
    moving_spot(tmp_path / "clip.mp4", 13)
    people, points = person_model(tmp_path / "p.onnx", PEOPLE), pose_model(tmp_path / "k.onnx")
    results = [
        estimate(
            tmp_path / "clip.mp4",
            options=EstimatorOptions(person_model=str(people), pose_model=str(points), batch=batch),
        )
        for batch in (1, 5, 16)
    ]
    assert results[0].any(axis=(1, 2)).all()
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@has_rtmlib
def test_rtmpose_without_people_finds_nothing(tmp_path: Path) -> None:
    moving_spot(tmp_path / "clip.mp4", 5)
    people = person_model(tmp_path / "p.onnx", np.array([[0, 0, 50, 50, 0.01]]))
    options = EstimatorOptions(person_model=str(people), pose_model=str(pose_model(tmp_path / "k.onnx")))
    assert not estimate(tmp_path / "clip.mp4", options=options).any()


class StandIn:
    """A model of rtmlib that remembers what it was made from; its inputs are those of RTMPose-x and of a YOLOX."""

    height = 1.0  # of the peaks of its scores
    asked: ClassVar[list[str]] = []

    def __init__(self, model: str, backend: str, device: str) -> None:
        StandIn.asked.append(model)
        size = (640, 640) if "yolox" in model else (384, 288)
        one = SimpleNamespace(shape=("batch", 3, *size), name="input")
        self.session = SimpleNamespace(get_inputs=lambda: [one], get_providers=lambda: [], run=self._run)
        self.onnx_model = model

    def __call__(self, frame_HWC: np.ndarray) -> np.ndarray:
        return np.array([[8.0, 8.0, 56.0, 40.0]])

    def preprocess(self, frame_HWC: np.ndarray, box_4: np.ndarray) -> tuple[np.ndarray, ...]:
        return np.zeros((384, 288, 3), np.float32), np.array([32.0, 24.0]), np.array([48.0, 64.0])

    def _run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        scores = [np.zeros((len(inputs["input"]), 133, bins), np.float32) for bins in (576, 768)]
        for score in scores:
            score[:, :, 100] = StandIn.height
        return scores


def simcc_maximum(x_NKW: np.ndarray, y_NKH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = np.stack([x_NKW.argmax(-1), y_NKH.argmax(-1)], axis=-1).astype(np.float32)
    return places, (x_NKW.max(-1) + y_NKH.max(-1)) / 2


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """rtmlib and onnxruntime as far as they are used, with models that need no files."""
    rtmlib = SimpleNamespace(YOLOX=StandIn, RTMPose=StandIn, __version__="0")
    processing = SimpleNamespace(get_simcc_maximum=simcc_maximum)
    monkeypatch.setitem(sys.modules, "rtmlib", rtmlib)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="0"))
    for name in ("rtmlib.tools", "rtmlib.tools.pose_estimation"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "rtmlib.tools.pose_estimation.post_processings", processing)
    monkeypatch.delenv(rtmpose.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(StandIn, "asked", [])
    return StandIn


def test_without_a_model_rtmw_is_downloaded_and_recorded_as_not_the_papers(stand_in: type[StandIn]) -> None:
    estimator = open_estimator(EstimatorOptions())
    assert stand_in.asked == [rtmpose.PERSON_MODEL, rtmpose.RTMW]
    assert "rtmw-dw-x-l" in estimator.version
    assert "not the paper's" in estimator.version


def test_the_papers_model_by_its_path_or_by_the_variable(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("rtmpose-x.onnx", "other.onnx"):
        (tmp_path / name).touch()
    monkeypatch.setenv(rtmpose.MODEL_VARIABLE, str(tmp_path / "rtmpose-x.onnx"))
    named = open_estimator(EstimatorOptions())
    assert "rtmpose-x, yolox" in named.version
    assert "not the paper's" not in named.version
    assert "other, yolox" in open_estimator(EstimatorOptions(pose_model=str(tmp_path / "other.onnx"))).version


def test_rtmws_scores_are_ten_times_as_high(stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained with beta = 1 against labels of 10: without the factor almost every point would count as found."""
    monkeypatch.setattr(StandIn, "height", 9.0)
    keypoints = open_estimator(EstimatorOptions())(np.zeros((3, 48, 64, 3), np.uint8))
    assert keypoints[..., 2] == pytest.approx(0.9)
    # Bin 100 of two a pixel: 50 of 288 x 384 pixels, in a crop of 48 x 64 about (32, 24).
    assert keypoints[0, 0, :2] == pytest.approx([32 - 24 + 48 * 50 / 288, 24 - 32 + 64 * 50 / 384], abs=1e-4)


def test_a_download_that_fails_says_what_to_do(stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: StandIn, model: str, **settings: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(StandIn, "__init__", offline)
    with pytest.raises(UserError, match=r"yolox.*cannot be downloaded \(no network\).*--person-model"):
        open_estimator(EstimatorOptions())


def test_a_variable_reaches_its_own_backend_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rtmpose.MODEL_VARIABLE, "for_rtmpose.onnx")
    for name in backends():
        expected = "for_rtmpose.onnx" if name == "rtmpose" else ""
        assert complete(EstimatorOptions(name)).pose_model == expected


def test_a_model_file_that_is_not_there(stand_in: type[StandIn]) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.onnx is not there"):
        open_estimator(EstimatorOptions(person_model="nowhere.onnx"))


@pytest.mark.parametrize("backend", backends())
def test_an_extra_that_is_absent_says_what_to_install(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    packages = backends()[backend].packages
    for module in ("rtmlib", "mediapipe"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install -c constraints.txt {re.escape(packages)}"):
        open_estimator(EstimatorOptions(backend=backend))


def test_a_file_is_all_that_an_estimator_takes(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module that is put into the package is offered by extraction and by prediction."""
    from cclslr.commands import predict

    (tmp_path / "one_more.py").write_text(
        """
from types import SimpleNamespace
from cclslr.poses.base import Backend

BACKEND = Backend("one_more", "one more", "nothing", lambda options: SimpleNamespace(version="stub 1"))
"""
    )
    monkeypatch.setattr(poses, "__path__", [*poses.__path__, str(tmp_path)])
    assert set(backends()) >= {"rtmpose", "mediapipe", "one_more"}
    assert open_estimator(EstimatorOptions("one_more")).version == "stub 1"
    for main in (tool.main, predict.main):
        with pytest.raises(SystemExit):
            main(["--help"])
        shown = capsys.readouterr().out
        assert all(name in shown for name in backends())
    with pytest.raises(UserError, match=r"unknown pose backend 'x'; choose one of .*one_more"):
        open_estimator(EstimatorOptions("x"))
    sys.modules.pop("cclslr.poses.one_more")


# The tool ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_videos(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_video: Callable[..., Path],
    stub: type[Stub],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / "videos" / "a" / "手语.mp4", 10, 30)
    write_video(tmp_path / "videos" / "b.mp4", 6)
    (tmp_path / "videos" / "dead.mp4").write_bytes(b"")
    out = tmp_path / "poses"
    assert run(tool, monkeypatch, tmp_path / "videos", "--out", out, "--threshold", 0.6) == ExitCode.SOME_BAD
    assert "e.g. dead; play the file; if it plays, convert it" in " ".join(capsys.readouterr().out.split())
    assert np.load(out / "a" / "手语.npz")["keypoints"].shape == (10, 133, 3)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["clips"], summary["frames"]) == (2, 16)
    assert summary["detection"] == {"body": 1.0, "left_hand": 0.5, "right_hand": 0.5, "face": 1.0}
    assert summary["below_threshold"] == ["a/手语", "b"]
    assert list(summary["failed"]) == ["dead"]
    with open(out / "check.csv", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a/手语", "b", "dead"]

    # The keypoints fit the importer's clip, estimator and version with them.
    clip = VideoFile(str(tmp_path / "videos" / "b.mp4"), str(out / "b.npz")).load()
    assert clip.meta["pose"] == {"estimator": "stub", "version": "stub 1"}
    assert clip.keypoints_TKC is not None

    # Again: what is there is not done again, what failed is tried again.
    calls, before = stub.calls, (out / "b.npz").stat().st_mtime_ns
    write_video(tmp_path / "videos" / "dead.mp4", 4)
    assert run(tool, monkeypatch, tmp_path / "videos", "--out", out) == 0
    assert stub.calls == calls + 1
    assert (out / "b.npz").stat().st_mtime_ns == before
    assert json.loads((out / "summary.json").read_text())["frames"] == 20


def test_estimators_are_not_mixed(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_video: Callable[..., Path],
    stub: type[Stub],
) -> None:
    write_video(tmp_path / "a.mp4", 4)
    assert run(tool, monkeypatch, tmp_path / "a.mp4", "--out", tmp_path / "poses") == 0
    monkeypatch.setattr(stub, "version", "stub 2")
    with pytest.raises(ValueError, match=r"a\.npz was made with stub 1, this run uses stub 2"):
        run(tool, monkeypatch, tmp_path / "a.mp4", "--out", tmp_path / "poses")


def test_a_table_with_spans(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_video: Callable[..., Path],
    stub: type[Stub],
) -> None:
    write_video(tmp_path / "long.mp4", 40)
    (tmp_path / "clips.csv").write_text(
        "key,video,label,start_frame,end_frame\nfirst,long.mp4,book,0,10\nsecond,long.mp4,drink,10,25\n"
    )
    assert run(tool, monkeypatch, tmp_path / "clips.csv", "--out", tmp_path / "poses") == 0
    keypoints = np.load(tmp_path / "poses" / "second.npz")["keypoints"]
    assert len(keypoints) == 15
    assert abs(keypoints[0, 0, 0] - 50) < 2  # grey of frame 10


def test_the_clips_of_a_data_set_are_found_again_by_its_importer(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_video: Callable[..., Path],
    stub: type[Stub],
) -> None:
    """MS-ASL's clips share their downloads; keypoints are extracted and packed by clip."""
    row = {"label": 0, "url": "https://youtu.be/ri3NrdgfAtE", "fps": 25.0, "box": [0, 0, 1, 1], "start": 0, "end": 1}
    rows = [row | {"start_time": 0.0, "end_time": 1.0}, row | {"start_time": 1.0, "end_time": 1.4}]
    (tmp_path / "MSASL_train.json").write_text(json.dumps(rows))
    write_video(tmp_path / "videos" / "ri3NrdgfAtE.mp4", 50, size=(320, 240))
    data_set = ["--annotations", tmp_path, "--videos", tmp_path / "videos"]
    assert run(tool, monkeypatch, "--dataset", "msasl", *data_set, "--out", tmp_path / "poses") == 0
    assert sorted(path.name for path in (tmp_path / "poses").glob("*.npz")) == ["train_00000.npz", "train_00001.npz"]

    from cclslr.datasets import msasl

    parser = tool.argparse.ArgumentParser()
    msasl.add_arguments(parser)
    found = msasl.load(parser.parse_args([str(a) for a in [*data_set, "--poses", tmp_path / "poses"]]))
    assert [len(row.source.load().keypoints_TKC) for row in found.rows] == [25, 10]


def test_two_clips_of_one_name(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stub: type[Stub]
) -> None:
    for name in ("a.mp4", "a.mov"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="1 names occur twice"):
        run(tool, monkeypatch, tmp_path, "--out", tmp_path / "poses")


def test_inputs_that_are_not_there(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.mp4 is not there"):
        run(tool, monkeypatch, tmp_path / "gone.mp4", "--out", tmp_path / "poses")


def test_comparison_of_two_folders(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_video: Callable[..., Path],
    stub: type[Stub],
) -> None:
    write_video(tmp_path / "a.mp4", 4)
    other = Stub()(np.full((4, 2, 2, 3), 44, dtype=np.uint8))
    other[..., 1] += 3
    other[0, 91:112] = 0
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "a.npz", keypoints=other)
    run(tool, monkeypatch, tmp_path / "a.mp4", "--out", tmp_path / "poses", "--compare", tmp_path / "other")
    result = json.loads((tmp_path / "poses" / "compare.json").read_text())
    assert result["left_hand"]["found_by_one_only"] == 21
    assert result["right_hand"]["found_by_one_only"] == 0
    assert 3 <= result["face"]["median_px"] < 5.5
    assert result["body"]["points"] == 4 * 17


def test_estimate_of_a_broken_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cclslr.poses.open_estimator", lambda options: Stub())
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(BadClip):
        estimate(tmp_path / "a.mp4")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="choose one of mediapipe, rtmpose"):
        estimate(tmp_path / "a.mp4", backend="openpose")


# .pose files ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 5), fps=st.sampled_from([25.0, 29.97]))
@settings(deadline=None, max_examples=25)
def test_a_pose_file_gives_back_what_was_written(seed: int, frames: int, fps: float) -> None:
    pose_format = pytest.importorskip("pose_format")
    from pose_format.utils import generic

    random = np.random.default_rng(seed)
    keypoints = random.uniform(-10, 5000, (frames, NUM_WHOLEBODY, 3)).astype(np.float32)
    keypoints[..., 2] = random.uniform(0, 1.1, keypoints.shape[:2])
    keypoints[random.random(keypoints.shape[:2]) < 0.3] = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.pose"
        write_dot_pose(path, keypoints, fps, (640, 480))
        pose = pose_format.Pose.read(path.read_bytes())
        assert (pose.header.dimensions.width, pose.header.dimensions.height) == (640, 480)
        assert generic.detect_known_pose_format(pose) == "coco_wholebody_133"
        assert pose.body.fps == pytest.approx(fps)
        assert [len(part.points) for part in pose.header.components] == [23, 68, 21, 21]
        if keypoints.any():
            assert np.array_equal(load_keypoints(path)[0], keypoints)
        keypoints[0, 5] = np.nan
        write_dot_pose(path, keypoints, fps, (640, 480))
        assert not load_keypoints(path)[0][0, 5].any()


def test_pose_files_are_packed_from_the_mirrored_tree(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stub: type[Stub],
    write_video: Callable[..., Path],
) -> None:
    pytest.importorskip("pose_format")
    for number, name in enumerate(("drink/a", "drink/b.c", "house/a")):
        write_video(tmp_path / "v" / f"{name}.mp4", 6 + number)
    assert run(tool, monkeypatch, tmp_path / "v", "--out", tmp_path / "p") == 0
    assert run(tool, monkeypatch, tmp_path / "v", "--out", tmp_path / "p", "--format", "pose") == 0
    assert stub.calls == 3  # the files of the first run are written anew, nothing is estimated again
    packed = {}
    for kind in ("npz", "pose"):
        if kind == "pose":
            for path in list((tmp_path / "p").rglob("*.npz")):
                path.unlink()
        arguments = ["folder", str(tmp_path / "v"), "--poses", str(tmp_path / "p"), "--size", "64", "--crop", "none"]
        assert pack.main([*arguments, "--out", str(tmp_path / kind)]) == 0
        shards = ShardSet([str(tmp_path / kind)])
        packed[kind] = {row.key: shards.read(clip_id) for clip_id, row in enumerate(shards.rows)}
    assert len(packed["npz"]) == 3
    for key, clip in packed["npz"].items():
        assert np.array_equal(clip.pose_TKC, packed["pose"][key].pose_TKC)
        assert clip.meta["pose"]["version"] == "stub 1"  # of the two files of a name the .npz is taken: it says more
        assert "pose" not in packed["pose"][key].meta
    assert run(tool, monkeypatch, tmp_path / "v", "--out", tmp_path / "q", "--format", "pose") == 0
    assert {path.suffix for path in (tmp_path / "q" / "drink").iterdir()} == {".npz", ".pose"}


def test_without_the_library_writing_pose_files_is_refused_at_once(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pose_format", None)
    with pytest.raises(UserError, match=r"pip install 'cclslr\[pose\]'"):
        run(tool, monkeypatch, tmp_path, "--out", tmp_path / "p", "--format", "pose")
