"""The baseline of retrieval without a network: coordinates about the shoulders, as a feature file.

python docs/results/retrieval/coordinates.py SHARDS OUT.parquet
cclslr evaluate OUT.parquet --retrieval
"""

import sys
from pathlib import Path

import numpy as np

from cclslr.inference.features import FeatureSet, write_features
from cclslr.shards.reader import ShardSet
from cclslr.study.baselines import about_shoulders


def coordinates(shards: ShardSet) -> FeatureSet:
    """Twelve frames of body and hands of each clip, as one vector of length 1."""
    poses = [shards.read(clip_id, ("pose",)).pose_TKC for clip_id in range(len(shards))]
    x_ND = np.stack([about_shoulders(pose_TKC, 12) for pose_TKC in poses if pose_TKC is not None])
    x_ND /= np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
    labels = np.array([row.label for row in shards.rows], np.int32)
    texts = zip(*((row.key, shards.classes[row.label], row.split, row.signer) for row in shards.rows))
    keys, glosses, splits, signers = map(list, texts)
    return FeatureSet(keys, labels, glosses, splits, signers, {"coordinates": x_ND})


if __name__ == "__main__":
    write_features(Path(sys.argv[2]), coordinates(ShardSet([sys.argv[1]])))
