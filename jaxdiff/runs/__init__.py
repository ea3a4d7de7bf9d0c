"""What surrounds a sampler in a script: result folders, resuming, progress, scores, reports."""
