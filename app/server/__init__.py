"""How requests come in and answers go out under gunicorn: HTTP and WSGI. It knows no route, no model and no Flask."""
