# As `durable/__init__.pyi`. No module has the name of something in it, or importing one
# would hide the other.

from durable.testing.clock import VirtualClock as VirtualClock
from durable.testing.driver import Driver as Driver
from durable.testing.environment import StalledError as StalledError
from durable.testing.environment import TestEnvironment as TestEnvironment
from durable.testing.histories import dump_history as dump_history
from durable.testing.histories import load_history as load_history
from durable.testing.pending import PendingActivity as PendingActivity
from durable.testing.pending import PendingChild as PendingChild
from durable.testing.pending import PendingDelivery as PendingDelivery
from durable.testing.replaying import Replayed as Replayed
from durable.testing.replaying import rebuild_state as rebuild_state
from durable.testing.replaying import replay as replay
from durable.testing.replaying import replay_at_every_prefix as replay_at_every_prefix

# Literally what is imported above: a second list would have to be kept equal.
__all__: list[str]  # noqa: PYI035
