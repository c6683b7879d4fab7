"""The kinds of stages that a study file may name, a file each."""
