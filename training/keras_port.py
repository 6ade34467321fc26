"""Rebuilds a trained PyTorch EfficientNet-Lite as a Keras model with the same weights, and checks that it agrees."""

import os
from pathlib import Path

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


def port_from_keras(path: Path, network: EfficientNetLite) -> EfficientNetLite:
    """Copy the weights of a ported model back into a PyTorch network of the same layers, and return it.

    Raises `ValueError` if its logits differ, as `port_to_keras`.
    """
    model = keras.models.load_model(path, compile=False)
    twins = [layer for layer in model.layers if layer.get_weights()]
    modules = [each for each in network.modules() if isinstance(each, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]
    for module, twin in zip(modules, twins, strict=True):
        weights = [torch.from_numpy(each) for each in twin.get_weights()]
        if isinstance(module, nn.Linear):
            weights[0] = weights[0].T
        elif isinstance(module, nn.Conv2d):
            weights[0] = weights[0].permute(2, 3, 0, 1) if module.groups > 1 else weights[0].permute(3, 2, 0, 1)
        tensors = [tensor for name, tensor in module.state_dict().items() if name != "num_batches_tracked"]
        for tensor, weight in zip(tensors, weights, strict=True):
            tensor.copy_(weight)
    check_port(network.eval(), model, model.input_shape[1])
    return network


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
