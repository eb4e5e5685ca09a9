"""Fetching a dataset or a model onto a volume, once for all jobs that use it: what a job's initializers run.

    request     what is wanted, and what was fetched before (records)
    hub, web, stores, folders    one module for each kind of source
    run         lock, compare, fetch, verify, record
    __main__    the program: deadline, messages, exit codes

It must not know Kubernetes' API, Ray, torch or any other part of the trainer.
"""
