"""The rules between fields, one module for each subject; every one is a pure function from facts to errors.

A module ends with a tuple `RULES`, and with `SKYRL_RULES` where rules concern `runtime.trainer: skyrl` only;
`rltrain_api.validate` calls them all. A rule must neither change the job nor read the machine it runs on, must not
raise for any job that could be parsed, and says nothing where an earlier rule has named the cause already.

A rule's docstring says what must hold and ends with where it comes from: SkyRL's check by its number in the list of
docs/validation.md (C4, G1, I3 …), or "Ours".
"""
