"""The validating webhook: jobs that cannot run are refused when they are written, with every error at once.

A process of its own, and optional: the operator judges every job by the same rules on every pass, so without the
webhook, or while it is away, a wrong job is told so in its status. `review` decides and is pure, `certificates` and
`rotation` make and renew what TLS needs, the rest is thin.
"""
