"""`python -m rltrain_cluster`: see `cli`."""

from rltrain_cluster.cli import main

main()
