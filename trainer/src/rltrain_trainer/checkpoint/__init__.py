"""Checkpoints on disk: a step is there whole or not at all, whenever the writer dies.

    <root>/latest_ckpt_global_step.txt     the newest committed step, as SkyRL writes it; for people and other tools
    <root>/global_step_N/manifest.json     sizes and SHA-256 digests of all files, step, configuration hash
    <root>/global_step_N/…                 what the trainer wrote

Nothing here knows what the files mean, nor torch.
"""
