"""Files of features: a row a clip, in Parquet or as .npy files with a list of keys."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cclslr.errors import UserError
from cclslr.files import atomic_write

VERSION = 1
_ABOUT = b"cclslr"  # the entry of the schema's metadata that holds `FeatureSet.about`
_CLIP = {"key": pa.string(), "label": pa.int32(), "gloss": pa.string(), "split": pa.string(), "signer": pa.string()}


@dataclass
class FeatureSet:
    """What a model makes of the clips of a data set."""

    keys: list[str]
    labels: np.ndarray  # (N,) int32, as the data set numbers them; -1 where a clip has none
    glosses: list[str]  # "" where a clip has none
    splits: list[str]
    signers: list[str]  # "" where unknown
    values: dict[str, np.ndarray]  # (N, D) float32 by name: g_rgb, g_pose, g_fused, f_…, logits_…
    about: dict[str, Any] = field(default_factory=dict)  # checkpoint, data set, settings; plain JSON

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, name: str) -> np.ndarray:
        """One of `values`.

        Raises:
            UserError: there is none of that name; says which there are.
        """
        if name not in self.values:
            raise UserError(f"no features {name!r}; there are {', '.join(self.values)}")
        return self.values[name]

    def chosen(self, rows_N: np.ndarray) -> FeatureSet:
        """Some of the rows, by number or by truth value, in that order."""
        rows = np.arange(len(self))[rows_N].tolist()
        columns = (self.keys, self.glosses, self.splits, self.signers)
        keys, glosses, splits, signers = ([column[row] for row in rows] for column in columns)
        values = {name: x[rows] for name, x in self.values.items()}
        return FeatureSet(keys, self.labels[rows], glosses, splits, signers, values, self.about)

    @staticmethod
    def together(parts: list[FeatureSet], about: dict[str, Any]) -> FeatureSet:
        """One after the other."""
        names = ("keys", "glosses", "splits", "signers")
        keys, glosses, splits, signers = ([x for part in parts for x in getattr(part, name)] for name in names)
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
        labels = np.concatenate([part.labels for part in parts])
        return FeatureSet(keys, labels, glosses, splits, signers, values, about)


def write_features(path: Path, features: FeatureSet) -> None:
    """Write `features` to a .parquet file, whole or not at all."""
    texts = {"key": features.keys, "label": features.labels, "gloss": features.glosses}
    texts |= {"split": features.splits, "signer": features.signers}
    columns = {name: pa.array(texts[name], kind) for name, kind in _CLIP.items()}
    for name, x_ND in features.values.items():
        flat = pa.array(np.ascontiguousarray(x_ND, np.float32).ravel())
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, x_ND.shape[1])
    about = json.dumps({"version": VERSION, **features.about}, ensure_ascii=False)
    table = pa.table(columns).replace_schema_metadata({_ABOUT: about.encode()})
    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_features(path: Path) -> FeatureSet:
    """Read a .parquet file of `write_features`.

    Raises:
        UserError: no such file, not one of features, of another version, or with numbers that are not finite.
    """
    try:
        table = pq.read_table(path, use_threads=False)  # as the index of a data set is read
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; make one with: cclslr embed CHECKPOINT --out {path}") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: unreadable ({str(error).splitlines()[0]})") from error
    try:
        about = json.loads((table.schema.metadata or {})[_ABOUT])
        version = about.pop("version")
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a feature file of cclslr embed") from error
    if version != VERSION:
        raise UserError(f"{path}: version {version}, this program reads {VERSION}; make it again with cclslr embed")
    values = {}
    for column in table.schema:
        if column.name in _CLIP:
            continue
        if not pa.types.is_fixed_size_list(column.type) or column.type.value_type != pa.float32():
            raise UserError(f"{path}: {column.name} is no column of vectors; make it again with cclslr embed")
        flat = table[column.name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values[column.name] = flat.reshape(len(table), column.type.list_size)
        if not np.isfinite(values[column.name]).all():
            raise UserError(f"{path}: {column.name} has missing numbers; make it again with cclslr embed")
    clip = {name: table[name].to_pylist() for name in _CLIP if name in table.column_names}
    if clip.keys() != _CLIP.keys() or any(None in column for column in clip.values()):
        raise UserError(f"{path}: a column of {', '.join(_CLIP)} is missing; make it again with cclslr embed")
    labels = np.array(clip["label"], np.int32)
    return FeatureSet(clip["key"], labels, clip["gloss"], clip["split"], clip["signer"], values, about)


def write_arrays(path: Path, features: FeatureSet) -> list[Path]:
    """Write `features` as <stem>.<name>.npy (N, D) float32 each, and <stem>.csv whose rows are theirs; returns them.

    Args:
        path: <stem>.npy.
    """
    written = []
    for name, x_ND in features.values.items():
        written.append(path.with_name(f"{path.stem}.{name}.npy"))
        with atomic_write(written[-1]) as file:
            np.save(file, np.ascontiguousarray(x_ND, np.float32))
    written.append(path.with_suffix(".csv"))
    with atomic_write(written[-1], "w") as file:
        writer = csv.writer(file)
        writer.writerow(_CLIP)
        rows = zip(features.keys, features.labels.tolist(), features.glosses, features.splits, features.signers)
        writer.writerows(rows)
    return written
