"""A script without an event loop: the sync facade."""

from durable import SyncEngine, activity, workflow


@activity
def count_words(text: str) -> int:
    """A plain function: it runs in a thread."""
    return len(text.split())


@workflow
async def total(texts: list[str]) -> int:
    """Workflows are always async; only the caller is not."""
    return sum([await count_words(text) for text in texts])


if __name__ == "__main__":
    with SyncEngine("sqlite:///words.db") as engine:
        run = engine.start(total(["to be or not", "to be"]))
        print(f"{run.result()} words, run {run.workflow_id}")
        for event in run.history():
            print(f"  {event.event_id}  {type(event.attributes).__name__}")
