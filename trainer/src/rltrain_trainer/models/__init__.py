"""Hugging Face models: loading, and token log-probabilities that never hold a full logits tensor."""
