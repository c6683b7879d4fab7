"""The clips that a batch asks for: read, or another one in the place of a bad one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cclslr.codecs import Codec
from cclslr.config import ViewConfig
from cclslr.data.draw import Purpose, hash_words
from cclslr.data.plan import BatchPlan
from cclslr.data.quarantine import Quarantine
from cclslr.data.views import least_side
from cclslr.errors import UserError
from cclslr.schedule import ByEpoch
from cclslr.shards.format import BadClip
from cclslr.shards.parts import ClipData
from cclslr.shards.reader import ShardSet

_MAX_ATTEMPTS = 100
_REMEDIES = {
    "rgb": "are poses alone: pack them with their videos, or set model.modalities=[pose]",
    "pose": "have no pose: estimate keypoints with cclslr poses and pack again, or set model.modalities=[rgb]",
}


class GoodClips:
    """Reads clips for a loader, from several threads at once.

    Args:
        shards: the clips.
        plan: of the loader: a bad clip's substitute is one of its clips.
        views: what is made of them, by epoch.
        modalities: "rgb", "pose", or both.
        seed: of substitution.
        augment: in training a bad clip is replaced by another one, chosen by hash; in evaluation it is left out.
        quarantine: where bad clips are kept.

    Attributes:
        codec: of the videos; None without RGB.

    Raises:
        UserError: a modality that the shards lack; shards of several codecs.
    """

    def __init__(
        self,
        shards: ShardSet,
        plan: BatchPlan,
        views: ByEpoch[ViewConfig],
        modalities: Sequence[str],
        seed: int,
        augment: bool,
        quarantine: Quarantine,
    ) -> None:
        self._shards, self._plan, self._views, self._quarantine = shards, plan, views, quarantine
        self._seed, self._augment = seed, augment
        _require(shards, modalities)
        self.codec = _codec(shards) if "rgb" in modalities else None
        masked = any(of_phase.mask_alpha > 0 for of_phase in views.all)
        self._parts = tuple(
            part
            for part, wanted in (
                ("video", "rgb" in modalities),
                ("mask", "rgb" in modalities and augment and masked),
                ("pose", "pose" in modalities),
            )
            if wanted
        )

    def read(self, epoch: int, clip_id: int, key: int) -> tuple[int, ClipData] | None:
        """A clip or, in training, its first good substitute; None if it is bad in evaluation.

        Which clip stands in depends on the seed, the epoch and the clip alone, not on what was found bad earlier.
        """
        for attempt in range(_MAX_ATTEMPTS):
            if clip_id not in self._quarantine.reasons:
                try:
                    clip = self._shards.read(clip_id, self._parts, self._least(epoch))
                    self._quarantine.passed()
                    return clip_id, clip
                except BadClip as error:
                    self._quarantine.add(clip_id, str(error))
            if not self._augment:
                return None
            lot = int(hash_words(self._seed, Purpose.SUBSTITUTE, epoch, key, attempt))
            clip_id = int(self._plan.clip_ids[lot % len(self._plan.clip_ids)])
        raise UserError(f"no good clip found in {_MAX_ATTEMPTS} attempts; check the shards with cclslr check")

    def smaller(self, epoch: int) -> list[int]:
        """The sizes of frames, in pixels of the short side, that are read instead of the full one."""
        return self._shards.smaller(self._least(epoch)) if self.codec is not None else []

    def _least(self, epoch: int) -> float:
        """Pixels on the short side of a frame that the views of an epoch are made from, at least."""
        return least_side(self._views.at(epoch)) if self._augment else math.inf


def _require(shards: ShardSet, modalities: Sequence[str]) -> None:
    """Refuse clips that lack what is to be made of them: left out later, they would shift the clips of a batch."""
    for modality, part in (("rgb", "video"), ("pose", "pose")):
        lacking = shards.rows.lacking(part) if modality in modalities else ()
        if len(lacking):
            named = ", ".join(shards.rows[i].key for i in lacking[:5]) + (", …" if len(lacking) > 5 else "")
            raise UserError(f"{len(lacking)} of {len(shards)} clips ({named}) {_REMEDIES[modality]}")


def _codec(shards: ShardSet) -> Codec:
    codecs = {str(info["codec"]) for info in shards.infos}
    if len(codecs) != 1:
        raise UserError(f"the shards mix codecs ({', '.join(sorted(codecs))}); pack them with the same --codec")
    return shards.codec(0)
