"""Checkpoints: a step is there whole or not at all, whenever its writer dies, on a volume and in an object store.

    places, objects    where files lie: a directory, a prefix of an object store
    manifest           the files of a step: sizes, SHA-256 digests, whether they are all there
    store              the commit protocol, and its reader
    retention          which steps are kept
    tensors, room      tensors of many ranks, planned by torch.distributed.checkpoint; what went wrong there
    trainer_state      the loop's part, as JSON

Nothing here knows what a step means to the run, nor Ray; only `tensors` and `room` know torch.
"""
