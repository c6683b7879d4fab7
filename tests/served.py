"""A page's server within this process, a stand-in for the keypoint estimator, and clips to send."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from cclslr.datasets.synthetic import SynthOptions, manifest
from cclslr.serve.answer import Answerer


def rendered(size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A rendered clip: frames uint8 (T, H, W, 3) and its true keypoints (T, 133, 3)."""
    synth = SynthOptions(classes=4, clips_per_class=(1, 0, 1), signers=(1, 1, 1), size=size, frames=(30, 36), seed=seed)
    clip = manifest(synth)[0].source.load()
    assert clip.frames_THWC is not None
    assert clip.keypoints_TKC is not None
    return clip.frames_THWC, clip.keypoints_TKC


def resting(keypoints_KC: np.ndarray, size: int) -> np.ndarray:
    """The same person with both hands far down."""
    rest_KC = keypoints_KC.copy()
    for elbow, wrist in ((7, 9), (8, 10)):
        rest_KC[wrist, :2] = rest_KC[elbow, :2] + (0, 0.6 * size)
    return rest_KC


@dataclass
class Stub:
    """An estimator that finds in any clip what a rendered one shows, stretched to its length."""

    keypoints_TKC: np.ndarray
    size: int
    version: str = "stub"
    name: str = "stub"
    seconds: float = 0.0  # that a frame of a camera takes
    followed: int = 0
    closed: int = 0
    seen: list[float] = field(default_factory=list)  # mean grey of each frame of a camera

    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        at = np.linspace(0, len(self.keypoints_TKC) - 1, len(frames_THWC)).round().astype(int)
        scaled_TKC = self.keypoints_TKC[at].copy()
        scaled_TKC[..., :2] *= np.array(frames_THWC.shape[2:0:-1]) / self.size
        return scaled_TKC.astype(np.float32)

    def follow(self) -> Stub.Camera:
        return Stub.Camera(self)

    class Camera:
        """Twelve frames of rest, the clip, and so on."""

        def __init__(self, stub: Stub) -> None:
            self._stub = stub
            clip = stub.keypoints_TKC
            rest = resting(clip[0], stub.size)
            self._frames = [rest] * 12 + list(clip)
            stub.followed += 1

        def __call__(self, frame_HWC: np.ndarray) -> np.ndarray:
            time.sleep(self._stub.seconds)
            self._stub.seen.append(float(frame_HWC.mean()))
            points_KC = self._frames[0].copy()
            self._frames = [*self._frames[1:], self._frames[0]]
            points_KC[:, :2] *= np.array(frame_HWC.shape[1::-1]) / self._stub.size
            return points_KC.astype(np.float32)

        def close(self) -> None:
            self._stub.closed += 1


def write_video(path: Path, frames_THWC: np.ndarray, codec: str = "libx264", rate: int = 25) -> Path:
    """Frames as a file of the container that its suffix says."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


@dataclass
class Served:
    """A server that answers."""

    port: int

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        """Status, and the body as JSON where it is some."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            data = response.read()
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(data) if is_json else data
        finally:
            connection.close()

    def clip(self, body: bytes, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", "/clip", body, **headers)


@contextmanager
def serve(answerer: Answerer) -> Iterator[Served]:
    """Run the page's server in a thread."""
    import uvicorn

    from cclslr.commands.serve import hosts_of
    from cclslr.serve.app import build_app

    config = uvicorn.Config(build_app(answerer, hosts_of("127.0.0.1")), "127.0.0.1", 0, log_level="warning")
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Served(socket.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
