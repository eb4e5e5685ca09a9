"""What a person is told when the cluster cannot do what was asked: what, why, and the remedy, in one message.

This module must not know any back end.
"""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster cannot do what was asked. The command line prints the message alone, without a trace."""
