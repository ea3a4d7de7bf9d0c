"""Networks in Flax, and their layers; they know nothing of diffusion but time embeddings."""
