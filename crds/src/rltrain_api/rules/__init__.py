"""The rules between fields, one module for each subject; every one is a pure function from a job to its errors.

`rltrain_api.validate` calls them all. A rule must neither change the job nor read the machine it runs on, and must not
raise for any job that could be parsed.
"""
