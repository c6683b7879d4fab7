"""Whole-body models of the RTMPose family through rtmlib and onnxruntime (extra `rtmpose`).

The paper's estimator is RTMPose-x whole-body, which is published as a PyTorch checkpoint only: whoever has exported it
names the file. Without one, RTMW-x of the same authors is downloaded, and the clips record that it is not the paper's.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from cclslr.errors import UserError
from cclslr.keypoints import NUM_WHOLEBODY
from cclslr.poses.base import Backend, EstimatorOptions
from cclslr.poses.person import choose, fill, link

MODEL_VARIABLE = "CCLSLR_POSE_MODEL"
# What rtmlib's Wholebody(mode="performance") takes: RTMW-x distilled, 384x288, and a YOLOX.
RTMW = (
    "https://download.openmmlab.com/mmpose/v1/projects/rtmw/onnx_sdk/"
    "rtmw-dw-x-l_simcc-cocktail14_270e-384x288_20231122.zip"
)
PERSON_MODEL = (
    "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/onnx_sdk/yolox_m_8xb8-300e_humanart-c2c7a14a.zip"
)
_SPLIT = 2.0  # bins of SimCC a pixel of the model's input
# The scores are logits that were trained to look like label_beta / beta times a peak of height 1. Both are 10 in the
# configs of RTMPose; RTMW's (cocktail14) have beta = 1, so its peaks are ten times as high (mmpose, KLDiscretLoss).
_TEN_TIMES = "cocktail14"
NOT_THE_PAPERS = ", not the paper's model"


class RtmPose:
    """`Estimator` of a person detector (YOLOX) and a whole-body model with SimCC outputs.

    People are looked for in every `detect_every`-th frame, the signer's box is interpolated between them, and the
    frames of the clip pass the pose model in batches.
    """

    name = "rtmpose"

    def __init__(self, options: EstimatorOptions) -> None:
        try:
            import onnxruntime
            import rtmlib
        except ImportError as error:
            raise BACKEND.absent(error) from error
        if options.batch < 1 or options.detect_every < 1:
            raise UserError("batch and detect_every must be at least 1")
        backend = {"backend": "onnxruntime", "device": options.device}
        with contextlib.redirect_stdout(io.StringIO()):  # rtmlib prints each file that it loads
            self._detector = _load(rtmlib.YOLOX, options.person_model, "--person-model", backend)
            self._pose = _load(rtmlib.RTMPose, options.pose_model, f"--pose-model or ${MODEL_VARIABLE}", backend)
        if options.device.startswith("cuda") and "CUDAExecutionProvider" not in self._pose.session.get_providers():
            raise UserError(f"onnxruntime cannot use {options.device}: install onnxruntime-gpu for your CUDA version")
        # A model file knows its input size; (N, 3, H, W).
        _, _, height, width = self._detector.session.get_inputs()[0].shape
        self._detector.model_input_size = (height, width) if isinstance(height, int) else (640, 640)
        batch, _, height, width = self._pose.session.get_inputs()[0].shape
        self._pose.model_input_size = (width, height) if isinstance(height, int) else (288, 384)
        self._batch = 1 if isinstance(batch, int) else options.batch
        self._detect_every = options.detect_every
        ten_times = _TEN_TIMES in Path(options.pose_model).stem
        self._height = 10.0 if ten_times else 1.0  # of the peak of a point that is surely found
        self.version = (
            f"rtmlib {getattr(rtmlib, '__version__', '?')}, onnxruntime {onnxruntime.__version__}, "
            f"{Path(options.pose_model).stem}, {Path(options.person_model).stem}"
            f"{', scores / 10' if ten_times else ''}{NOT_THE_PAPERS if options.pose_model == RTMW else ''}"
        )

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """See `Estimator`. Confidence: mean of the two SimCC maxima, of which a sure point's are about 1."""
        num_frames, height, width, _ = frames_THWC.shape
        keypoints_TKC = np.zeros((num_frames, NUM_WHOLEBODY, 3), dtype=np.float32)
        looked_at = sorted({*range(0, num_frames, self._detect_every), num_frames - 1})
        # The detector was trained on BGR, the pose model on RGB.
        boxes = {t: np.asarray(self._detector(np.ascontiguousarray(frames_THWC[t, ..., ::-1]))) for t in looked_at}
        gap = max(15, 2 * self._detect_every)
        person = choose(link(boxes, gap), width, height)
        if person is None:
            return keypoints_TKC
        boxes_T4, present_T = fill(person, num_frames, gap)
        chosen = np.flatnonzero(present_T)
        for begin in range(0, len(chosen), self._batch):
            part = chosen[begin : begin + self._batch]
            keypoints_TKC[part] = self._points(frames_THWC[part], boxes_T4[part])
        return keypoints_TKC

    def _points(self, frames_NHWC: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
        crops, centres, scales = zip(*(self._pose.preprocess(f, b) for f, b in zip(frames_NHWC, boxes_N4)))
        session = self._pose.session
        inputs_NCHW = np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2), dtype=np.float32)
        outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: inputs_NCHW})
        if len(outputs) != 2 or outputs[0].shape[1] != NUM_WHOLEBODY:
            shapes = [output.shape for output in outputs]
            raise UserError(f"{self._pose.onnx_model}: outputs {shapes} are not SimCC of {NUM_WHOLEBODY} keypoints")
        points_NKC = decode_simcc(
            outputs[0], outputs[1], np.stack(centres), np.stack(scales), self._pose.model_input_size
        )
        points_NKC[..., 2] /= self._height
        return points_NKC


def decode_simcc(
    x_NKW: np.ndarray, y_NKH: np.ndarray, centre_N2: np.ndarray, scale_N2: np.ndarray, input_size: tuple[int, int]
) -> np.ndarray:
    """Points from SimCC (one classification over columns, one over rows; Li et al., ECCV 2022): float32 (N, K, 3).

    Args:
        x_NKW, y_NKH: scores of the columns and rows, two a pixel of the input.
        centre_N2, scale_N2: of the crop in the source, pixels.
        input_size: width and height of the model's input.
    """
    from rtmlib.tools.pose_estimation.post_processings import get_simcc_maximum

    places_NK2, confidence_NK = get_simcc_maximum(x_NKW, y_NKH)
    shares_NK2 = places_NK2 / _SPLIT / np.array(input_size)
    xy_NK2 = shares_NK2 * scale_N2[:, None] + centre_N2[:, None] - scale_N2[:, None] / 2
    points_NK3 = np.concatenate([xy_NK2, confidence_NK[..., None]], axis=-1)
    return np.where(confidence_NK[..., None] > 0, points_NK3, 0).astype(np.float32)


def _load(kind: Any, model: str, option: str, settings: dict[str, str]) -> Any:
    """A model of rtmlib from a file, or from a URL, which rtmlib downloads once."""
    remote = model.startswith(("http://", "https://"))
    if not remote and not Path(model).is_file():
        raise UserError(f"model file {model} is not there; {option} names an .onnx file, or the URL of a published one")
    try:
        return kind(model, **settings)
    except OSError as error:
        if not remote:
            raise
        raise UserError(
            f"{model} cannot be downloaded ({error}); fetch it where the network reaches it and name the .onnx file "
            f"in it with {option}"
        ) from error


BACKEND = Backend(
    "rtmpose",
    "RTMPose-x, the paper's, where --pose-model names it, else RTMW-x; wants a GPU for more than a few clips",
    "rtmlib onnxruntime-gpu (onnxruntime without a GPU)",
    RtmPose,
    MODEL_VARIABLE,
    RTMW,
    PERSON_MODEL,
)
