"""What a browser is shown where other callers get JSON: pages, guides, and the API reference.

It asks the views of `app.api` for what it shows, and knows no model, engine or picture.
"""
