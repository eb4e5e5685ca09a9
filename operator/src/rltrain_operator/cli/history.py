"""The curve of a run, from the ConfigMap that outlives its cluster."""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.wire import History
from rltrain_operator.cli.cluster import Cluster
from rltrain_operator.cli.errors import CommandError

HISTORY_KEY = "history.json"


def read_history(cluster: Cluster, job: str) -> History | None:
    """The history of the job of that name; None when none has been written.

    Raises:
        CommandError: what is there is no history, or the cluster refuses.
        Unavailable: the API server does not answer.
    """
    from pydantic import ValidationError

    name = names.history_name(job)
    text = (cluster.read_config_map(name) or {}).get(HISTORY_KEY)
    if text is None:
        return None
    try:
        return History.model_validate_json(text)
    except ValidationError as error:
        raise CommandError(
            f"ConfigMap {name}, key {HISTORY_KEY}, is no history: {error.errors()[0]['msg']}",
            "It is written by the operator alone; look at what else writes it.",
        ) from error
