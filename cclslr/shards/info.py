"""dataset.json in types, and the one place that reads it: what it says is checked before anything is done with it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from cclslr.errors import UserError
from cclslr.shards.format import FORMAT_VERSION, SHARD_PATTERN

INFO_NAME = "dataset.json"
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


class ShardInfo(TypedDict):
    """One shard, as dataset.json lists it."""

    name: str  # of the tar, in the data set's folder
    clips: int
    bytes: int
    sha256: str


class DatasetInfo(TypedDict):
    """What dataset.json says. Keys of later versions are kept when the file is written again."""

    format_version: int
    clips: dict[str, int]  # by split
    classes: list[str]  # gloss of each label
    content_hash: str
    index_sha256: str
    shards: list[ShardInfo]
    codec: str
    size: int | None  # pixels of the short side
    smaller: NotRequired[list[int]]  # the same of each video's smaller sizes, descending; absent: there are none
    crop: str
    quality: int | None
    masks: dict[str, Any] | None
    licence_note: NotRequired[str]
    settings: NotRequired[dict[str, Any]]
    rejected: NotRequired[int]
    recipe: NotRequired[str]  # fingerprint of everything that was asked for


_TYPES: dict[str, tuple[type, ...]] = {
    "clips": (dict,),
    "classes": (list,),
    "shards": (list,),
    "codec": (str,),
    "size": (int, type(None)),
    "crop": (str,),
    "quality": (int, type(None)),
    "masks": (dict, type(None)),
}
_SHARD_TYPES: dict[str, tuple[type, ...]] = {"name": (str,), "clips": (int,), "bytes": (int,), "sha256": (str,)}


def load_info(folder: str | Path) -> DatasetInfo:
    """dataset.json of a folder.

    Raises:
        FileNotFoundError: the folder is no packed data set, or packing has not ended.
        UserError: as `parse_info`.
    """
    path = Path(folder) / INFO_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: pack the data set with cclslr pack, or let it end")
    return parse_info(path.read_bytes(), str(path))


def parse_info(data: bytes, name: str) -> DatasetInfo:
    """What a dataset.json says.

    Names of shards and checksums become paths on this machine, and data sets come from elsewhere: names that lead out
    of a folder, checksums that are none and sizes below 0 are refused here, before anybody uses them.

    Raises:
        UserError: not one of this format's version, or it lacks something; the message begins with `name`.
    """
    try:
        info = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not valid JSON ({error})") from error

    def need(good: bool, what: str) -> None:
        if not good:
            raise UserError(f"{name}: {what}; pack it again into another folder, or get it anew")

    need(isinstance(info, dict), "not the description of a data set")
    version = info.get("format_version")
    need(version == FORMAT_VERSION, f"format version {version}, this program reads {FORMAT_VERSION}")
    for key in ("content_hash", "index_sha256"):
        need(_is_sha256(info.get(key)), f"{key} is no SHA-256")
    _check_types(info, _TYPES, "", need)
    need(all(_is_count(count) for count in info["clips"].values()), "clips are no counts")
    need(all(isinstance(gloss, str) for gloss in info["classes"]), "classes are no texts")
    smaller = info.get("smaller", [])
    need(isinstance(smaller, list) and all(_is_count(side) for side in smaller), "smaller is no list of sizes")
    for number, shard in enumerate(info["shards"]):
        need(isinstance(shard, dict), f"shards[{number}] is no shard")
        _check_types(shard, _SHARD_TYPES, f"shards[{number}].", need)
        need(SHARD_PATTERN.fullmatch(shard["name"]) is not None, f"{shard['name']!r} is no name of a shard")
        need(_is_sha256(shard["sha256"]), f"sha256 of {shard['name']} is no SHA-256")
        need(_is_count(shard["bytes"]) and _is_count(shard["clips"]), f"{shard['name']} has a size below 0")
    names = [shard["name"] for shard in info["shards"]]
    need(len(set(names)) == len(names), "a shard is listed twice")
    return cast(DatasetInfo, info)


def _check_types(values: dict[str, Any], types: dict[str, tuple[type, ...]], prefix: str, need: Any) -> None:
    for key, kinds in types.items():
        need(key in values, f"{prefix}{key} is missing")
        good = isinstance(values[key], kinds) and not isinstance(values[key], bool)
        need(good, f"{prefix}{key} is {str(values[key])[:40]!r}")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256_PATTERN.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def packing(info: DatasetInfo) -> dict[str, Any]:
    """How clips were packed, as keywords of `PackOptions`: what a checkpoint keeps, so that its users pack alike."""
    return {"codec": info["codec"], "size": info["size"], "crop": info["crop"], "quality": info["quality"]}


def equal_glosses(classes: list[str]) -> str | None:
    """What to tell people where several classes have one gloss, as those of two data sets may; None where none have."""
    counts = Counter(classes)
    several = [gloss for gloss, count in counts.items() if count > 1]
    if not several:
        return None
    return (
        f"{len(several)} of {len(counts)} glosses name more than one class, e.g. {several[0]!r}: these are learnt and "
        "scored as different signs. To have them as one, pack both data sets into one (cclslr pack csv)"
    )
