"""The trainer: rollouts → batch → update → weights, on FSDP2, driven by one process and steered over HTTP.

Ray lives only in `driver/`; everything else is plain torch and asyncio, so that a loss, an FSDP step or a weight
transfer can be run and timed alone on any machine. It must not import the operator.
"""
