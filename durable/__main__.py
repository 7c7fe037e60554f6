"""`python -m durable` and `durable`: the command line."""

import atexit
import gc
import sys


def main() -> None:
    """Run the command line, or say why it cannot be imported."""
    # As it ends, Python collects several times what ends with the process anyway: a
    # third of a second of the processor, which a worker that drains may have to share.
    atexit.register(gc.freeze)
    try:
        from durable.cli.main import main as run
    except (ImportError, AttributeError) as error:
        from durable.namesakes import explain

        text = explain(error)
        if text is None:
            raise
        sys.exit(f"error: {text}")
    run()


if __name__ == "__main__":
    main()
