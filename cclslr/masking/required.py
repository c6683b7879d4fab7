"""The check that training makes. It needs no flow, whose packages take a second to import."""

from __future__ import annotations

from cclslr.errors import UserError
from cclslr.shards.reader import ShardSet


def require_masks(shards: ShardSet, alpha: float) -> None:
    """Refuse to train with masks that are not there.

    Raises:
        UserError: `alpha` > 0 and a clip has no mask; says which command makes them.
    """
    if alpha <= 0:
        return
    for clip_id in shards.rows.lacking("mask")[:1].tolist():
        folder = shards.path(clip_id).parent
        raise UserError(
            f"{folder}: clip {shards.rows[clip_id].key} has no mask, but views.mask_alpha is {alpha}; "
            f"make masks with: cclslr masks {folder}, or set views.mask_alpha=0"
        )
