"""The quickstart's own data, tokenizer and tiny model, made on the spot: nothing is downloaded.

`python -m rltrain_trainer.quickstart --output DIR [--seed N]` runs as the initializer of `examples/quickstart.yaml`, on
one CPU core, before the cluster exists. It knows nothing of Kubernetes, of Ray or of the trainer, and needs only torch,
transformers, tokenizers and pyarrow; what it writes is what any job reads: parquet rows and a model directory.
"""
