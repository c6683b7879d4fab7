"""Repeat the studies behind the figures in docs/results."""

GROUP, PLACE = "measuring", 3
