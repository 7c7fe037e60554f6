"""Two processes with one engine each, on one file.

`gunicorn --config flask_shop/gunicorn.conf.py`, from the folder above.
"""

from typing import Any

wsgi_app = "flask_shop.app:create_app()"
workers = 2
threads = 4  # a request that waits for a result holds a thread, not the process


def post_worker_init(worker: Any) -> None:
    """Go on with unfinished orders at once, and not at the first request."""
    worker.wsgi.extensions["durable"].open()


def worker_exit(server: Any, worker: Any) -> None:
    if hasattr(worker, "wsgi"):  # else it was stopped before it had the application
        worker.wsgi.extensions["durable"].close()
