"""The page of a run folder."""
