"""What `durable worker` does to the process that is its own."""

import gc

from durable.cli.processes.serving import quieter_collector


def test_the_collector_is_quieter_only_while_the_worker_runs() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with quieter_collector():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > frozen
        assert gc.isenabled()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
