"""The variables that an installation's chart sets for all jobs, read from its values.

The command line works offline, so it is told of them by a file: `helm get values RELEASE --all -o yaml` writes one.
"""

from __future__ import annotations

from rltrain_api.reading import UnusableInput, read_documents
from rltrain_operator.cli.errors import CommandError
from rltrain_operator.installation import job_environment

KEY = "jobEnvironment"
REMEDY = "Give what `helm get values RELEASE --all -o yaml` writes."


def chart_environment(path: str) -> dict[str, str]:
    """Names and values of `jobEnvironment` in a file of values, `-` for standard input.

    Raises:
        CommandError: the file cannot be used, or the operator would not start with these variables.
    """
    try:
        document, *others = read_documents(path)
    except UnusableInput as error:
        raise CommandError(str(error), REMEDY) from error
    if others:
        raise CommandError(f"{document.source}: holds {1 + len(others)} documents", REMEDY)
    variables = document.data.get(KEY, {})
    place = document.place(KEY)
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise CommandError(f"{place}: {KEY} must be a map of names and texts", "Put values into quotes.")
    try:
        # In the order of their names, as the chart writes them into the operator's flags.
        return job_environment([f"{name}={variables[name]}" for name in sorted(variables)])
    except ValueError as error:
        raise CommandError(f"{place}: {error}") from error
