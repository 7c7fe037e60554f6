"""`python -m durable` and `durable`: the command line."""

import sys


def main() -> None:
    """Run the command line, or say why it cannot be imported."""
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
