"""An animal under a prior of faces."""
