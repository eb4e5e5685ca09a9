"""One trainer rank on FSDP2: the sharded policy, its update, and its part of weight syncs and checkpoints."""
