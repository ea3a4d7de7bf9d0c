"""Methods on three problems."""
