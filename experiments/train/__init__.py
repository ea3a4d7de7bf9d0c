"""Trains the prior of high noise levels for photographs: `python -m experiments.train --help`."""
