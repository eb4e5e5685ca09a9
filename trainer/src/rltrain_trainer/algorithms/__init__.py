"""Reinforcement-learning algorithms as plain functions of tensors: advantages, losses, reductions, divergences.

Tensors are [batch, tokens] with responses aligned on the right. Nothing here knows of models, ranks or micro-batches.
"""
