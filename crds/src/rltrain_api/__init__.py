"""The API of RLTrain: what a person may write, what a status may say, and what operator and driver say to each other.

This package is pure data and pure functions. It must know neither a Kubernetes client nor torch nor Ray, so that a
command line, an admission webhook, an operator and a trainer can all import it in milliseconds.
"""
