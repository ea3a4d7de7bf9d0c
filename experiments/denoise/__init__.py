"""One-step denoising."""
