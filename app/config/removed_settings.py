"""Settings that are gone."""

REMOVED = {
    "COMPILE_MEMORY_BYTES": "SCANCER_MODEL_MEMORY_BYTES takes its place",
    "DOWNLOAD_TIMEOUT_S": "fetching a model from a URL may always take 300 s",
    "ENGINE": 'a model runs in its own framework if its model.toml says engine = "native"',
    "ENVELOPE": 'each archive names its own in MAR-INF/MANIFEST.json, as in "model": {"envelope": "kserve"}',
    "GRACEFUL_TIMEOUT_S": "set gunicorn's own option, as in GUNICORN_CMD_ARGS='--graceful-timeout 60'; "
    "SCANCER_STOP_DELAY_S is a part of that time",
    "HANDLER_MEMORY_BYTES": "SCANCER_MODEL_MEMORY_BYTES takes its place",
    "HANDLER_QUEUE_SIZE": "each archive says it in its model-config.yaml (jobQueueSize); without that it is 100",
    "HANDLER_RESPONSE_TIMEOUT_S": "SCANCER_RESPONSE_TIMEOUT_S takes its place",
    "HANDLER_STARTUP_TIMEOUT_S": "an archive says it in its model-config.yaml (startupTimeout), or its registration "
    "(startup_timeout); without these it is 120 s",
    "INITIAL_WORKERS": "each registration says it, as in 'POST /models?url=NAME&initial_workers=1', or the "
    "model-config.yaml of an archive (minWorkers); without these it is 0",
    "KEEPALIVE_S": "set gunicorn's own option, as in GUNICORN_CMD_ARGS='--keep-alive 5'",
    "LOADED_AT_START": "a worker loads 2 compiled models when it starts, the others when they are first asked for",
    "LOGIN_MEMORY_S": "a worker remembers a verified password for 300 s, or until the users file changes",
    "MAX_SIDE_PX": "a picture may always have 16384 pixels on a side; SCANCER_MAX_PIXELS limits its area",
    "NATIVE_TIMEOUT_S": "SCANCER_RESPONSE_TIMEOUT_S takes its place",
    "REQUEST_TIMEOUT_S": "set gunicorn's own option, as in GUNICORN_CMD_ARGS='--timeout 60'",
}
"""What takes the place of a setting that is gone, by its name without `SCANCER_`; one still set stops the start."""
