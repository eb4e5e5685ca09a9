"""The operator's side of the driver contract (`rltrain_api.wire`)."""

from rltrain_operator.driver_client.client import DriverApi, DriverClient, DriverUnavailableError

__all__ = ["DriverApi", "DriverClient", "DriverUnavailableError"]
