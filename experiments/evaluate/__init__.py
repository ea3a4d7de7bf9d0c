"""A data set to one table."""
