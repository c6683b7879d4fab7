"""Measure this machine: loaders, training step, memory, packing."""

GROUP, PLACE = "measuring", 2
