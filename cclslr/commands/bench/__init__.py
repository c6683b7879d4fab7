"""Measure this machine: loaders, training step, stages, memory, packing."""

GROUP, PLACE = "measuring", 2
