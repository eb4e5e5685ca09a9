"""Inference engines: the contract, the client that speaks it over HTTP, the fleet of them, and the builtin engine.

    rollout ──► Fleet ──► Engine (contract) ◄── HttpEngine ──HTTP──► builtin server | vLLM

The room must not know Ray, training nor environments.
"""
