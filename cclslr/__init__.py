"""CCL-SLR: cross-modal consistency learning for isolated sign language recognition."""

__version__ = "0.1.0"
