"""What samples are worth: against a truth, against other samples, and against the data alone."""
