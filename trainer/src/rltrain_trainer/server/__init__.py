"""The driver's HTTP face (`rltrain_api.wire`): status, history, metrics, and requests to save or stop."""
