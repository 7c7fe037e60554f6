"""A shop behind Flask and gunicorn: `gunicorn -c flask_shop/gunicorn.conf.py`."""
