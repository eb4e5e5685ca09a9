"""What a job will need: batches and steps, and the memory of a GPU, estimated from the model's shape.

Pure functions over a job and a model's `config.json`; nothing here reads a file. `shapes` counts parameters exactly,
`batches` counts sequences and steps exactly, `training` and `engines` estimate memory from published formulas, and
`estimate` puts a job's GPUs together. It must not know Kubernetes' objects.
"""
