"""The driver: one process on the head pod that brings up ranks and engines and runs the training loop.

This is the only room that knows Ray. `training.py` is the loop itself and knows it not: it talks to ranks and engines
through small protocols, so that it runs in a test without a cluster.
"""
