"""What scripts and the command line share: methods, runs, result folders, scores, reports."""
