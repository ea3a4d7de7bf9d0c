"""Speed beside PyTorch."""
