"""Restoring photographs, beside what people use."""
