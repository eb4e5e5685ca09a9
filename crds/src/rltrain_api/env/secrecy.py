"""Which values must never be shown: by the name, and, because people mistype names, by the value as well.

Errs on the side of hiding. Must not know layers.
"""

from __future__ import annotations

import re

from rltrain_api.env.catalogue import find, near_miss

HIDDEN = "<secret>"

_SECRET_NAME = re.compile(
    r"(?i)(.*[_-])?(TOKEN|KEY|KEY_ID|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_BASE64)?"
    r"|.*(PASSWORD|PASSWD|APIKEY|SECRET_|PRIVATE_KEY).*"
)
# Tokens of Hugging Face, OpenAI, GitHub, Slack, AWS, Modal and W&B, keys in PEM, a password in a URI.
_SECRET_VALUE = re.compile(
    r"\b(hf_\w{16,}|sk-[\w-]{16,}|gh[opusr]_\w{16,}|github_pat_\w{16,}|xox[abprs]-[\w-]{10,}|A[KS]IA[0-9A-Z]{16}"
    r"|a[ks]-[A-Za-z0-9]{20,}|wandb_v\d_\w{16,})"
    r"|\A[0-9a-f]{40}\Z|-----BEGIN|://[^/\s:@]*:[^/\s@]+@"
)


def is_secret(name: str, value: str) -> bool:
    """Whether the value of this variable must not be shown."""
    variable = find(name) or near_miss(name)
    if variable is not None and variable.secret:
        return True
    return _SECRET_NAME.fullmatch(name) is not None or _SECRET_VALUE.search(value) is not None


def shown(name: str, value: str) -> str:
    """The value as people may see it."""
    return HIDDEN if is_secret(name, value) else value
