"""Hyper-parameters of DPS and ScoreALD."""
