"""The operator: watches RLTrainingJobs, decides what each needs next, and applies it.

Data flows one way: observe (caches and polls) → decide (pure) → apply (server-side) → one status write. It must not
import the trainer: the two share the wire contract in `rltrain_api.wire` and nothing else.
"""
