"""`kubectl rltrain`: what a person types beside `kubectl` to follow a job and to see what it learned.

One verb is one module with `configure(parser)` and `run(arguments, screen) -> exit code`. Pure functions turn a status
or a history into text or a figure (`view`, `lines`, `summary`, `plot`, `picture`); a thin shell reads the cluster
(`cluster`, `source`, `history`) and writes the screen (`screen`). Heavy libraries are imported where they are used, so
that `kubectl rltrain --help` answers at once. It must import neither kopf, torch nor Ray, and it only ever reads.
"""
