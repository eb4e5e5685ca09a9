"""The reasons of conditions and Events: one word each, for programs; messages are for people."""

from __future__ import annotations

# ConfigValid
VALID = "Valid"
INVALID_SPEC = "InvalidSpec"
INVALID_EDIT = "InvalidEdit"

# Reconciling, Ready and the conditions of the life before training
PENDING = "Pending"
INITIALIZING = "Initializing"
QUEUED = "Queued"
NOT_QUEUED = "NotQueued"
QUOTA_RESERVED = "QuotaReserved"
PROVISIONING = "Provisioning"
CLUSTER_READY = "ClusterReady"
CLUSTER_NOT_READY = "ClusterNotReady"
PLACEMENT_DOES_NOT_FIT = "PlacementDoesNotFit"
CLUSTER_DELETED = "ClusterDeleted"
EDIT_NOT_APPLIED = "EditNotApplied"
SETTLED = "Settled"
RESTARTING = "Restarting"
UPDATING = "Updating"
PODS_LEAVING = "PodsLeaving"

# Suspended, and why an attempt was stopped
SUSPENDING = "Suspending"
SUSPENDED = "Suspended"
RESUMED = "Resumed"
NOT_SUSPENDED = "NotSuspended"
RESTART_REQUESTED = "RestartRequested"
DRIVER_TOLD_TO_STOP = "DriverToldToStop"
ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"

# EnginesReady
ENGINES_READY = "EnginesReady"
ENGINES_NOT_READY = "EnginesNotReady"
ENGINES_NOT_TOLD = "EnginesNotTold"
ENGINES_NOT_AVAILABLE = "EnginesNotAvailable"
SCALING_ENGINES = "ScalingEngines"

# What the API server or another's object keeps us from
FOREIGN_OBJECT = "ForeignObject"
CREATION_FORBIDDEN = "CreationForbidden"
CREATION_REFUSED = "CreationRefused"
CLAIM_NOT_FOUND = "ClaimNotFound"
CLAIM_NOT_USABLE = "ClaimNotUsable"
SCRIPT_NOT_FOUND = "ScriptNotFound"
AWAITING_GARBAGE_COLLECTION = "AwaitingGarbageCollection"

# Training
NOT_STARTED = "NotStarted"
ATTEMPT_PLANNED = "AttemptPlanned"
DRIVER_STARTING = "DriverStarting"
DRIVER_PREPARING = "DriverPreparing"
TRAINING = "Training"
FINISHED = "Finished"

# Checkpointed
NO_CHECKPOINT = "NoCheckpoint"
CHECKPOINT_COMMITTED = "CheckpointCommitted"

# Ends
NOT_FINISHED = "NotFinished"
NOT_FAILED = "NotFailed"
COMPLETED = "Completed"
BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
FAILED_BY_RULE = "FailedByRule"

# Failures
INITIALIZER_FAILED = "InitializerFailed"
STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
DRIVER_FAILED = "DriverFailed"
DRIVER_STOPPED = "DriverStopped"
DRIVER_LOST = "DriverLost"
DRIVER_UNRESPONSIVE = "DriverUnresponsive"
TRAINING_STALLED = "TrainingStalled"
VOLUME_FULL = "VolumeFull"

# Failures that the next attempt would meet again, because somebody has to change something first.
FINAL = frozenset({VOLUME_FULL})
# A driver that has this reason on Training was submitted; before that, Ray not knowing its id is no loss.
SUBMITTED = frozenset({DRIVER_STARTING, DRIVER_PREPARING, TRAINING, FINISHED})
# A driver that has answered in this attempt: from here on silence is a failure, not a slow start.
ANSWERED = frozenset({DRIVER_PREPARING, TRAINING, FINISHED})
