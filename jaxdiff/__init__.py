"""Posterior sampling for imaging inverse problems with diffusion priors, in JAX."""
