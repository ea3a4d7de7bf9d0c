"""Samplers held against exact posteriors."""
