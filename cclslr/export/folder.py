"""The folder that leaves: graphs, weights, labels, preprocessing, a test clip, and the card that says what they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cclslr import checkpoint
from cclslr.errors import BadClip, UserError
from cclslr.export import card, preprocess
from cclslr.export.graphs import FORMATS, Graph, Run, branches, cut_onnx, open_onnx
from cclslr.export.quantise import PRECISIONS, quantised
from cclslr.export.request import Exported, Request
from cclslr.export.verify import Parity, compare, each_view, latency, one_clip
from cclslr.files import read_json, write_json
from cclslr.inference.model import Model, load
from cclslr.inference.weights import CONFIG_NAME, WEIGHTS_NAME, about_model, read_weights, write_weights
from cclslr.shards.reader import ShardSet

WEIGHTS = "safetensors"
KINDS = (*FORMATS, WEIGHTS)
CLIP_NAME, PARITY_NAME, LABELS_NAME = "test_clip.npz", "parity.json", "labels.json"


def export(request: Request) -> Exported:
    """Write the folder, whole or not at all.

    Raises:
        UserError: `out` is there; unknown branch; a package is missing; a file that cannot be read.
        RuntimeError: a graph does not say what the model says: a bug of ours or of an exporter.
    """
    out = request.out
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is there already; remove it, or choose another --out")
    model = load(request.checkpoint, "cpu", ["run.amp=fp32", *request.overrides])
    wanted = list(request.branches) or branches(model)
    there = branches(model)
    if unknown := [branch for branch in wanted if branch not in there]:
        raise UserError(f"{model.source} has no branch {', '.join(unknown)}; it has {', '.join(there)}")
    shards = _data_of(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        folder = Path(name) / "export"
        folder.mkdir()
        done = _fill(folder, model, request, wanted, shards)
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return Exported(out, done.files, done.parity, done.measured_on)


def _fill(folder: Path, model: Model, request: Request, wanted: list[str], shards: ShardSet | None) -> Exported:
    try:
        packing: dict[str, Any] | None = model.how_to_pack()
    except UserError:
        packing = None  # an old checkpoint, and its data set is gone
    state = _state(request.checkpoint)
    about = about_model(state, packing)
    write_json(folder / CONFIG_NAME, about)
    write_json(folder / LABELS_NAME, model.classes)
    shutil.copyfile(preprocess.__file__, folder / "preprocess.py")
    if WEIGHTS in request.formats:
        write_weights(folder, state, about)
    runs: dict[str, tuple[Graph, Run]] = {}
    for kind in request.formats:
        if kind != WEIGHTS:
            runs |= _write_graphs(folder, model, kind, wanted, request.quantise)
    done = Exported(request.out, [])
    if request.verify and runs:
        count = request.verify if shards is not None else min(request.verify, 20)
        seen = [m for m in model.modalities if any(m in graph.inputs for graph, _ in runs.values())]
        done.parity = compare(model, runs, each_view(model, shards, count, seen))
        _measure(done.parity, folder, model, runs)
        on = f"{', '.join(model.config.data.shards)}, test" if shards is not None else "random views: no data set"
        done.measured_on = on
        write_json(folder / PARITY_NAME, {"on": on, **{name: parity.as_json() for name, parity in done.parity.items()}})
    clip = None
    if request.clip and shards is not None:
        clip = _write_clip(folder / CLIP_NAME, model, shards)
    text = card.write(model, folder, done, request, shards, clip, scores_of(request.checkpoint))
    (folder / "README.md").write_text(text, encoding="utf-8")
    done.files = sorted(path.name for path in folder.iterdir())
    return done


def _state(path: Path) -> dict[str, Any]:
    exported = path.is_dir() or path.name == WEIGHTS_NAME
    return read_weights(path) if exported else checkpoint.load(path)


def _write_graphs(
    folder: Path, model: Model, kind: str, wanted: list[str], quantise: Sequence[str]
) -> dict[str, tuple[Graph, Run]]:
    """The files of one format: what each is, and how it is run, by name."""
    form, runs = FORMATS[kind], {}
    whole = folder / f"fused{form.suffix}"
    for branch in sorted(wanted, key=lambda branch: branch != "fused"):  # the others are parts of it
        graph, path = Graph(model, branch), folder / f"{branch}{form.suffix}"
        if kind == "onnx" and whole.exists():
            cut_onnx(whole, path, graph)
        else:
            form.write(graph, path)
        runs[path.name] = graph, form.open(path, graph)
    if kind == "onnx" and "pose" in wanted:
        for name in quantise:
            path = folder / f"pose_{name}.onnx"
            PRECISIONS[name].write(folder / "pose.onnx", path)
            runs[path.name] = Graph(model, "pose"), open_onnx(path)
    return runs


def _measure(parity: dict[str, Parity], folder: Path, model: Model, runs: dict[str, tuple[Graph, Run]]) -> None:
    """Size and latency of each file; and stop where one does not say what the model says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, (graph, run) in runs.items():
            views, found = one_clip(model, graph), parity[name]
            found.ms, found.ms_p95 = latency(lambda run=run, views=views: run(views))  # type: ignore[misc]
            found.bytes = (folder / name).stat().st_size
            if quantised(name) is None and not found.good:
                raise RuntimeError(f"{name} differs from the model by {found.difference}, of {found.largest}")
    finally:
        torch.set_num_threads(threads)


def _data_of(model: Model) -> ShardSet | None:
    """Test clips of what the model was trained on, any clips where there are none of test; None: it is gone."""
    cfg = model.config.data
    for split in ("test", None):
        try:
            return ShardSet(cfg.shards, split, cache_dir=cfg.cache_dir, cache_gb=cfg.cache_gb)
        except (UserError, OSError):
            continue
    return None


def _write_clip(path: Path, model: Model, shards: ShardSet) -> str | None:
    """The first clip as arrays, with what the model says of it; returns its key. None: it cannot be read."""
    row = shards.rows[0]
    try:
        clip = shards.read(0)
        frames_THWC = None if clip.video is None else shards.codec(0).decode(clip.video)
    except BadClip:
        return None
    arrays: dict[str, Any] = {"packed": np.array(True), "gloss": np.array(_gloss(shards, row.label))}
    arrays |= {} if frames_THWC is None else {"frames": frames_THWC}
    arrays |= {} if clip.pose_TKC is None else {"keypoints": clip.pose_TKC}
    for views in each_view(model, shards, 1):
        with torch.inference_mode():
            said = model.forward(views)
        arrays |= {f"expected_{name}": x.float().numpy() for name, x in said.items()}
    np.savez_compressed(path, **arrays)
    return row.key


def _gloss(shards: ShardSet, label: int) -> str:
    return shards.classes[label] if label >= 0 else ""


def scores_of(path: Path) -> dict[str, Any] | None:
    """The evaluation on test that lies beside a checkpoint, as `cclslr finetune` and `cclslr evaluate` write it."""
    beside = path.with_name("test.json")
    try:
        return read_json(beside) if beside.is_file() else None
    except UserError:
        return None
