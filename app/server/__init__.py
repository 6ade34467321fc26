"""How requests come in and answers go out under gunicorn; knows HTTP and WSGI, nothing of Flask or models."""
