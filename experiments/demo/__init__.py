"""A page in the browser."""
