"""The loop of one job: observe → decide → apply → one status write.

`decide` is pure: from the job, what was observed and the time it says what to do next and what the status is. All
around it is a thin shell. Nothing here remembers: a new process with empty memory comes to the same decisions, because
every number that matters (attempt, submission id, last failure) is in the job's status before the deed it names.
"""
