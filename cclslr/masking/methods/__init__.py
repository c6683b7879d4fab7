"""Ways of making masks, a file each."""

from cclslr.masking.methods.base import (
    CHOICES,
    MaskMethod,
    MpmOptions,
    MpmReport,
    methods,
    motion_alone,
    motion_mask,
)

__all__ = ["CHOICES", "MaskMethod", "MpmOptions", "MpmReport", "methods", "motion_alone", "motion_mask"]
