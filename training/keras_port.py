"""Rebuilds a trained PyTorch EfficientNet-Lite as a Keras model with the same weights, and checks that it agrees."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import torch
from keras import layers
from torch import Tensor, nn

from app.engines.pytorch.torch_architectures import BATCH_NORM_EPS, EfficientNetLite, InvertedBottleneck

TOLERANCE = 1e-4
CHECKED_IMAGES = 32
SEED = 0


def port_to_keras(network: EfficientNetLite, size_px: int) -> keras.Model:
    """Port the network layer by layer.

    Args:
        network: trained, in evaluation mode.
        size_px: side of the square input.

    Returns:
        A functional model: normalized images, float32 [N, H, W, 3], to logits, float32 [N, classes].

    Raises:
        ValueError: a logit of 32 random images differs by more than 1e-4 of the largest.
    """
    inputs = keras.Input((size_px, size_px, 3), name="image")
    x = port_sequence(network.stem, inputs, "stem")
    for index, block in enumerate(network.blocks):
        assert isinstance(block, InvertedBottleneck), "the stages hold nothing else"
        out = port_sequence(block.layers, x, f"block{index}")
        x = layers.Add(name=f"block{index}_add")([x, out]) if block.residual else out
    x = port_sequence(network.head, x, "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    classifier = layers.Dense(network.classifier.out_features, name="classifier")
    outputs = classifier(x)
    classifier.set_weights([to_numpy(network.classifier.weight).T, to_numpy(network.classifier.bias)])
    model = keras.Model(inputs, outputs, name="efficientnet_lite")
    check_port(network, model, size_px)
    return model


def port_sequence(modules: nn.Module, x: keras.KerasTensor, prefix: str) -> keras.KerasTensor:
    """Apply the Keras twins of a sequence of convolutions, normalizations and ReLU6."""
    for index, module in enumerate(modules.children()):
        x = port_layer(module, x, f"{prefix}_{index}")
    return x


def port_layer(module: nn.Module, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Apply the Keras twin of one layer, with its weights."""
    if isinstance(module, nn.ReLU6):
        return layers.ReLU(max_value=6.0, name=name)(x)
    if isinstance(module, nn.BatchNorm2d):
        twin = layers.BatchNormalization(epsilon=BATCH_NORM_EPS, name=name)
        y = twin(x)
        weights = (module.weight, module.bias, module.running_mean, module.running_var)
        twin.set_weights([to_numpy(tensor) for tensor in weights if tensor is not None])
        return y
    assert isinstance(module, nn.Conv2d), "the sequences hold nothing else"
    stride, kernel = module.stride[0], module.kernel_size[0]
    if module.groups > 1:
        twin = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=name)
        order = (2, 3, 0, 1)
    else:
        twin = layers.Conv2D(module.out_channels, kernel, stride, padding="same", use_bias=False, name=name)
        order = (2, 3, 1, 0)
    y = twin(x)
    twin.set_weights([to_numpy(module.weight).transpose(order)])
    return y


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a weight out of PyTorch."""
    return tensor.detach().numpy().copy()


def check_port(network: nn.Module, model: keras.Model, size_px: int) -> None:
    """Compare the two on random images; raise `ValueError` if they differ."""
    images = np.random.default_rng(SEED).normal(0, 1, (CHECKED_IMAGES, size_px, size_px, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    actual = model.predict(images, verbose=0)
    difference = float(np.abs(actual - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"the Keras port differs from PyTorch by {difference:.1e} of the largest logit")
    print(f"Keras port: largest difference {difference:.1e} of the largest logit, over {CHECKED_IMAGES} images")
