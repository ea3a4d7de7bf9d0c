"""Models of diffusers: how tensors are named, what `config.json` and `scheduler_config.json` say."""
