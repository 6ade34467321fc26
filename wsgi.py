"""The WSGI application: `gunicorn wsgi:app`, or `flask run` for development."""

from app import create_app

app = create_app()
