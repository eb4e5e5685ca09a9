"""The builtin engine: torch and transformers behind vLLM's HTTP paths, on a CPU or one GPU.

    server ── requests, control ──► worker (one thread) ──► scheduler ──► batch (columns of who runs), sampler
                                                                └───────► runner (model, slot cache), decoding
                                        weights (transfer group, updates in place)

It exists so that RLTrain trains anywhere without an engine to install, and so that tests meet a real engine. It does
continuous batching over one dense cache; it has no paged memory, no prefix cache between requests and no tensor
parallelism, which is what vLLM and SGLang are for.
"""
