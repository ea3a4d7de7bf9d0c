"""Checkpoints of other libraries to Flax priors and back, on the command line: `python -m convert_weights --help`."""
