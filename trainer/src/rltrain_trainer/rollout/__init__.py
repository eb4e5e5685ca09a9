"""Rollouts: from prompts to trajectories, over whatever engines the fleet has and the environments of skyrl-gym.

The room must not know training, Ray nor which engine serves.
"""
