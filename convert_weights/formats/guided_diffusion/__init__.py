"""Checkpoints of guided-diffusion: how tensors are named, what their shapes show, what is told besides."""
