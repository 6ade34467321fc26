"""Reports of versions on labelled pictures, for people (HTML) and programs (JSON, CSV). It knows no HTTP."""
