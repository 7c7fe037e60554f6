"""`python -m durable`: the command line without its script."""

from durable.cli.main import main

if __name__ == "__main__":
    main()
