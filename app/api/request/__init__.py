"""What requests of every room pass: route, place, user, body, changes of models, log line, errors.

It knows no other room of the API.
"""
