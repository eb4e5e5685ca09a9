"""Where the numbers of a run go: the run's state for the operator, a console log for people."""
