"""Models that bring their own program, as TorchServe's archives do; each runs in processes of its own.

The way of a request: an HTTP worker's `client` -> the `manager` process, whose `pool` of the model batches it -> one of
the pool's `worker` processes, which calls the handler. Only a worker process ever imports what an archive holds.
"""
