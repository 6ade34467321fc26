"""Reads what stands before the first layer of a function of TensorFlow.

OpenVINO's reader merges a factor, such as that of `Rescaling`, with the weights of the first layer. So the graph of
TensorFlow itself is read.
"""

from typing import Any

import numpy as np
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.engines.network_facts import Head, Numbers, Operation, find_first_layer
from app.engines.tensorflow.tensorflow_setup import tf


def read_graph_head(function: Any) -> Head:
    """Read the head of a `tf.function` that has one signature of one picture tensor."""
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    graph, picture = frozen.graph, frozen.inputs[0]
    operations = (
        Operation(operation.type, tuple(map(key_of, operation.inputs)), tuple(map(key_of, operation.outputs)))
        for operation in graph.get_operations()
    )
    found, steps = find_first_layer(operations, key_of(picture))

    def react(pictures: Numbers) -> Numbers:
        with tf.compat.v1.Session(graph=graph) as session:
            rows = [session.run(found, {picture.name: one}) for one in pictures[:, np.newaxis]]
        return np.stack([np.asarray(row, np.float32).ravel() for row in rows])

    return Head(steps, react)


def key_of(tensor: Any) -> str:
    """Return a tensor's name, under which a session finds it."""
    return str(tensor.name)
