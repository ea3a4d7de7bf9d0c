"""One script per table or figure, run as `python -m experiments.NAME`."""
