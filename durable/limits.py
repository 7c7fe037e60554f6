"""Every bound of the library, with its reason.

A bound exists so that a mistake is refused where it is made, with its name and size,
instead of failing later in a database, a queue or another process.
"""

from __future__ import annotations

from typing import Final

# MySQL's widest indexed utf8mb4 column under default settings leaves about this much.
ID_BYTES_MAX: Final = 255
NAME_BYTES_MAX: Final = 255

# Temporal's hard limit for one payload; larger values belong beside the history.
PAYLOAD_BYTES_MAX: Final = 2 * 1024 * 1024

# Beyond this a run should continue as new. Temporal stops at 51,200.
HISTORY_EVENTS_WARN: Final = 45_000
# Events after which `checkpoint` begins anew: a replay of so many takes milliseconds.
CHECKPOINT_EVENTS: Final = 1_000

# Failures come from arbitrary exceptions and land in every later read of a run.
FAILURE_DEPTH_MAX: Final = 20
FAILURE_GROUP_MAX: Final = 100
FAILURE_FRAMES_MAX: Final = 30
FAILURE_MESSAGE_CHARS_MAX: Final = 32 * 1024
FAILURE_NOTES_MAX: Final = 20
# All of it together, as JSON: each attempt writes one, and each run that it passes.
FAILURE_BYTES_MAX: Final = 512 * 1024

# About 10,000 years in microseconds would overflow datetime; 100 years is a plan,
# anything longer is a mistake in units.
DURATION_SECONDS_MAX: Final = 100 * 366 * 86_400

# For so long a program may start runs with the defaults that a namespace had before
# another program changed them.
DEFAULTS_SECONDS: Final = 2.0

# Runs kept live between workflow tasks. Each costs a coroutine and its frames.
CACHED_RUNS_MAX: Final = 1_000
# Activities running at once in one worker.
ACTIVITIES_MAX: Final = 1_000
# Threads for sync activities: enough for I/O, few enough to start at once.
ACTIVITY_THREADS_MAX: Final = 64
# Operations that share one commit. More adds latency to all of them.
COMMIT_OPERATIONS_MAX: Final = 2_048
# Runs loaded by one read when a worker starts or many timers are due.
LOAD_RUNS_MAX: Final = 500
# Runs that a worker takes at once, once it has begun those that it took before: so what
# is due goes to all who work, and not to who was there first.
CLAIM_RUNS_MAX: Final = 200
# Activities that a worker takes from a queue at once, of as many as it has room for.
CLAIM_TASKS_MAX: Final = 200
# Runs of which a worker remembers that it has parked them. One that has parked more
# tries no others that are parked: what it does not remember it would try for ever.
PARKED_RUNS_KEPT: Final = 100_000
# What waits is counted for so many task queues, and so many runs of each.
BACKLOG_QUEUES_MAX: Final = 200
BACKLOG_RUNS_MAX: Final = 10_000
# Types of activities that wait in one task queue, and are found by one statement.
TASK_TYPES_AT_ONCE: Final = 1_000
# Likewise of fairness keys in a configured queue.
TASK_KEYS_AT_ONCE: Final = 100
FAIRNESS_KEY_CHARS_MAX: Final = 64
# Of activities that anyone may take, in all queues and states together.
BACKLOG_TASKS_MAX: Final = 100_000
# How often a worker that is observed looks what waits, and how long that is told.
BACKLOG_SECONDS: Final = 5.0
BACKLOG_SECONDS_MAX: Final = 15.0
# Rows of one page of a listing.
LIST_PAGE_MAX: Final = 1_000
# Runs that one transaction deletes: whoever else wants to write waits meanwhile.
DELETE_RUNS_MAX: Final = 1_000
# One line of an export, which is read into memory whole.
EXPORTED_RUN_BYTES_MAX: Final = 512 * 1024 * 1024
# Runs that refused what a batch does, by name: it is carried from step to step.
BATCH_FAILURES_KEPT: Final = 100
# Attributes of one run: each is a row or more that every one of its changes rewrites.
ATTRIBUTES_MAX: Final = 50
# What an index can hold beside the other columns on every database.
KEYWORD_CHARS_MAX: Final = 255
KEYWORD_LIST_MAX: Final = 100
# A text becomes a row for each of its words.
TEXT_CHARS_MAX: Final = 4_096
# A query is read, and turned into a statement, at a cost that grows with its size.
QUERY_CHARS_MAX: Final = 16_384
QUERY_CONDITIONS_MAX: Final = 100
QUERY_DEPTH_MAX: Final = 50
QUERY_VALUES_MAX: Final = 200
# Runs that a query looks at before it gives up: a second or so on a small machine.
QUERY_WALKED_MAX: Final = 100_000
# Runs that are counted one by one: beyond it a count says "at least".
COUNT_MAX: Final = 1_000_000
# Groups of one count.
COUNT_GROUPS_MAX: Final = 1_000

# Turns that workflow code may fail before the run parks as stuck.
WORKFLOW_TASK_ATTEMPTS: Final = 3
# Attempts of one activity that may be lost with their workers: more than anybody's
# restarts, but an activity that kills its process must not do so for ever.
LOST_ATTEMPTS_MAX: Final = 20
# From the second in a row on, the next waits for a share of this, doubled each time.
LOST_WAIT_SECONDS: Final = 1.0
LOST_WAIT_SECONDS_MAX: Final = 60.0
# How long, as how many events and in how many bytes results of local activities may be
# known to their run alone: what a crash loses, and what one commit writes.
LOCAL_SECONDS: Final = 1.0
LOCAL_EVENTS_MAX: Final = 200
LOCAL_BYTES_MAX: Final = 1024 * 1024
# Seconds that workflow code may hold its thread: Temporal's deadlock detector.
WORKFLOW_TASK_BLOCKED_SECONDS: Final = 2.0
# A torn-down coroutine may refuse GeneratorExit; it is asked this often, then kept.
TEARDOWN_ROUNDS_MAX: Final = 100
# From so many unheard cancels of one task on, a turn looks for calls that only repeat
# themselves; after so many rounds of nothing else it ends.
CANCELS_IN_A_ROW: Final = 8
ROUNDS_WITHOUT_PROGRESS: Final = 16

# Processes of one `durable worker`: more than the cores of most machines.
WORKER_PROCESSES_MAX: Final = 256
# Who asks how a worker does: so many at once, so long, and with so large a request.
HEALTH_CONNECTIONS_MAX: Final = 64
HEALTH_SECONDS_MAX: Final = 5.0
HEALTH_REQUEST_BYTES_MAX: Final = 8 * 1024

# A worker that has not renewed for this long may be replaced.
LEASE_SECONDS: Final = 10.0

# A reply to another process that nobody has read for this long is dropped.
REPLY_SECONDS_MAX: Final = 3_600.0
# Generations of children that one closing transaction follows.
CHILD_DEPTH_MAX: Final = 100
# Messages that wait for one run. More come from a loop that never ends, or for a run
# that nobody works on; each waits in the database, and is read when the run is.
INBOX_MESSAGES_MAX: Final = 10_000
# Request ids that a checkpoint carries on, so that a repeated message is known.
REQUEST_IDS_KEPT: Final = 256

# How long a change of a schedule waits for a worker.
SCHEDULE_ANSWER_SECONDS: Final = 10.0

SQLITE_WAL_FAULT = ((3, 7, 0), (3, 51, 3))
"""From and before which versions SQLite may corrupt a database that is checkpointed by
one connection while others write."""
OUTBOX_PAGE_MAX: Final = 500
"""How many rows of the outbox are delivered at a time."""
# What interceptors send along with a call: names, ids and a token or two.
HEADERS_BYTES_MAX: Final = 64 * 1024
# Attempts that a stand-alone executor remembers, in all and of each execution.
EXECUTOR_ATTEMPTS_KEPT: Final = 1_000
