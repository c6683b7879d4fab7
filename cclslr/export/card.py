"""The model card: README.md of an exported folder, with the front matter that the Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cclslr import __version__
from cclslr.export.graphs import FORMATS
from cclslr.export.quantise import quantised
from cclslr.export.request import Exported, Request
from cclslr.inference.model import Model
from cclslr.inference.weights import WEIGHTS_NAME
from cclslr.shards.info import packing
from cclslr.shards.reader import ShardSet

METRICS = {
    "per_instance_top1": "accuracy",
    "per_instance_top5": "top-5 accuracy",
    "per_class_top1": "mean class accuracy",
}
PAPER = "Cross-Modal Consistency Learning for Sign Language Recognition (Wu, Li, Hu, Zhou, Li)"
LIMITS = """\
- A clip is one sign from rest to rest. Whatever it is shown, it names one of its classes; a low share proves no unknown
  sign.
- Signers, rooms, cameras and dialects that the data lacks are recognised worse than the scores say.
- Keypoints must come from the estimator of the training data: two of them differ by several pixels.
- A clip shows a person. Ask before you keep one."""


def write(
    model: Model,
    folder: Path,
    done: Exported,
    request: Request,
    shards: ShardSet | None,
    clip: str | None,
    scores: dict[str, Any] | None,
) -> str:
    """The card of what lies in `folder`.

    Args:
        clip: key of the test clip, where there is one.
        scores: content of test.json, where there is one.
    """
    title = Path(model.source).resolve().parent.name
    parts = [
        f"---\n{yaml.safe_dump(_front(model, request, scores, title), sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        f"An isolated sign language recogniser by {PAPER}, exported by cclslr {__version__} from a checkpoint of "
        f"{model.kind}: {', '.join(model.modalities)}{_classes(model)}.",
        "## Files\n\n" + "\n".join(f"- `{name}`: {meaning}" for name, meaning in _files(model, folder, clip).items()),
        _use(model, folder, clip is not None),
        _inputs(model),
        _table_of_scores(scores),
        _table_of_parity(done),
        _data(shards, clip),
        "## Limits\n\n" + LIMITS,
        "## Recipe\n\nEvery key is in `config.json` under `config`; those that differ from program to program:\n\n"
        + f"```yaml\n{yaml.safe_dump(_recipe(model), sort_keys=False, allow_unicode=True)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(model: Model, request: Request, scores: dict[str, Any] | None, title: str) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": request.licence,
        "library_name": "cclslr",
        "pipeline_tag": "video-classification" if model.classes else "feature-extraction",
        "tags": ["sign-language", "sign-language-recognition", "cclslr", *request.formats],
    }
    if scores is None:
        return front
    branch = "fused" if "fused" in scores["scores"] else next(iter(scores["scores"]))
    metrics = [
        {"type": "accuracy", "name": f"{name} ({branch})", "value": round(scores["scores"][branch][key], 2)}
        for key, name in METRICS.items()
    ]
    data = ", ".join(Path(path).name for path in model.config.data.shards)
    task = {"type": "video-classification", "name": "isolated sign language recognition"}
    dataset = {"type": data.lower(), "name": data, "split": scores["split"]}
    result = {"task": task, "dataset": dataset, "metrics": metrics}
    return {**front, "metrics": ["accuracy"], "model-index": [{"name": title, "results": [result]}]}


def _classes(model: Model) -> str:
    return f"; {len(model.classes):,} signs" if model.classes else "; features, no classes"


def _files(model: Model, folder: Path, clip: str | None) -> dict[str, str]:
    meanings = {
        "config.json": "classes, how clips are packed, and the whole recipe",
        "labels.json": "gloss of each logit",
        "preprocess.py": "from frames and keypoints to inputs; NumPy and Pillow",
    }
    for name in sorted(path.name for path in folder.iterdir()):
        branch = name.split(".")[0]
        if name == WEIGHTS_NAME:
            meanings[name] = 'weights; `cclslr.load("this folder")` reads them'
        elif (precision := quantised(name)) is not None:
            meanings[name] = f"the pose branch: {precision.meaning}"
        elif any(name.endswith(form.suffix) for form in FORMATS.values()):
            meanings[name] = f"graph: {' and '.join(_modalities(model, branch))}"
        elif name == "parity.json":
            meanings[name] = "what is in the table of parity below, number by number"
    if clip is not None:
        meanings["test_clip.npz"] = f"clip {clip}: frames, keypoints, and what the model says of it"
    return meanings


def _modalities(model: Model, branch: str) -> list[str]:
    return [m for m in model.modalities if branch in (m, "fused")]


def _use(model: Model, folder: Path, clip: bool) -> str:
    graphs = [name for name in ("fused.onnx", "pose.onnx", "rgb.onnx") if (folder / name).exists()]
    if not graphs:
        return '## Use\n\n```python\nimport cclslr\n\nmodel = cclslr.load(".")\nmodel.embed("clip.mp4").g\n```'
    lines = ["import json", "", "import numpy as np", "import onnxruntime", "import preprocess", ""]
    lines += ['config, labels = json.load(open("config.json")), json.load(open("labels.json"))']
    lines += ['clip = np.load("test_clip.npz")' if clip else 'clip = np.load("yours.npz")  # frames, keypoints']
    packed = ', packed=bool(clip["packed"])' if clip else ""
    lines += [f'inputs = preprocess.prepare(clip.get("frames"), clip.get("keypoints"), config{packed})']
    lines += [f'session = onnxruntime.InferenceSession("{graphs[0]}")']
    lines += ["wanted = {each.name: inputs[each.name] for each in session.get_inputs()}"]
    lines += ["outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, wanted)))"]
    if model.classes:
        branch = graphs[0].removesuffix(".onnx")
        branch = branch if len(model.modalities) > 1 or branch != "fused" else model.modalities[0]
        lines += [f'print([labels[k] for k in np.argsort(-outputs["logits_{branch}"][0])[:5]])']
    else:
        lines += ["print({name: x.shape for name, x in outputs.items()})"]
    return "## Use\n\nIn this folder, with NumPy, Pillow and ONNX Runtime:\n\n```python\n" + "\n".join(lines) + "\n```"


def _inputs(model: Model) -> str:
    views, packed = model.config.views, model.packing
    shapes = {
        "rgb": f"`rgb`: uint8 (batch, {views.rgb_frames}, {views.size}, {views.size}, 3), RGB, 0 to 255",
        "pose": f"`pose`: float32 (batch, {views.pose_frames}, 75, 3), x and y in [-1, 1], confidence",
    }
    lines = [f"- {shapes[m]}" for m in model.modalities]
    lines += ["- out: `g_…`, features of length 1" + ("; `logits_…`, one a class" if model.classes else "; `f_…`")]
    if packed is not None:
        crop = "a square around the signer" if packed["crop"] == "signer" else "the whole frame"
        lines += [f"- clips are cut to {crop}, {packed['size']} pixels; `preprocess.prepare` does it"]
    return "## Inputs and outputs\n\nThe batch may be of any size.\n\n" + "\n".join(lines)


def _table_of_scores(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "## Scores\n\nNone lie beside the checkpoint (`cclslr evaluate` writes them)."
    lines = [f"| branch | {' | '.join(METRICS.values())} |", "|---|" + "---|" * len(METRICS)]
    for branch, found in scores["scores"].items():
        lines.append(f"| {branch} | " + " | ".join(f"{found[key]:.2f}" for key in METRICS) + " |")
    return f"## Scores\n\nPercent of {scores['clips']:,} clips of split {scores['split']}.\n\n" + "\n".join(lines)


def _table_of_parity(done: Exported) -> str:
    if not done.parity:
        return ""
    heads = ("file", "MB", "ms a clip", "95 % within", "largest difference", "same first", "same five")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in done.parity.items():
        first, five = (min(x.values()) if x else None for x in (found.same_top1, found.same_top5))
        differs = max(found.difference.items(), key=lambda item: item[1])
        shares = " | ".join("" if x is None else f"{100 * x:.1f} %" for x in (first, five))
        lines.append(
            f"| `{name}` | {found.bytes / 1e6:.1f} | {found.ms:.1f} | {found.ms_p95:.1f} | {differs[1]:.2g} of "
            f"{found.largest[differs[0]]:.2g} ({differs[0]}) | {shares} |"
        )
    clips = next(iter(done.parity.values())).clips
    return (
        f"## Parity\n\nAgainst the model in torch, on {clips} clips ({done.measured_on}); time of the graph alone, one "
        "clip, one core of the machine that exported it.\n\n" + "\n".join(lines)
    )


def _data(shards: ShardSet | None, clip: str | None) -> str:
    if shards is None:
        return "## Data\n\nThe data set was not there when this was written."
    lines = [
        f"- {sum(info['clips'].values()):,} clips, {len(info['classes']):,} signs, content "
        f"`{info['content_hash'][:12]}`, packed as {packing(info)}; licence, as noted by who packed it: "
        f"{info.get('licence_note') or 'not noted'}"
        for info in shards.infos
    ]
    if clip is not None:
        lines.append("- `test_clip.npz` is of this data and under its licence: `cclslr export --no-clip` leaves it out")
    return "## Data\n\n" + "\n".join(lines)


def _recipe(model: Model) -> dict[str, Any]:
    cfg = model.config
    return {
        "data": {"shards": list(cfg.data.shards)},
        "model": {"rgb": cfg.model.rgb, "gcn_width": cfg.model.gcn_width, "modalities": list(cfg.model.modalities)},
        "optim": {"epochs": cfg.optim.epochs, "batch": cfg.optim.batch, "lr": cfg.optim.lr},
        "run": {"seed": cfg.run.seed},
    }
