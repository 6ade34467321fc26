"""The slow road: from an artifact to a compared IR, in a confined process. It knows no request."""
