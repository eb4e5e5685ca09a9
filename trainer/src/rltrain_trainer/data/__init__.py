"""Datasets in SkyRL's row format, and the batch of tensors that rollouts become."""
