"""What the predecessor's way runs: `model.predict` in a Flask view, on Flask's development server."""

import io
import os
import tomllib
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
from flask import Flask, request
from PIL import Image

FOLDER = Path(__file__).parent
MANIFEST = tomllib.loads((FOLDER / "model.toml").read_text())
INPUT, CLASSES = MANIFEST["input"], MANIFEST["output"]["classes"]
app = Flask(__name__)
model = keras.models.load_model(FOLDER / "model.keras")


@app.post("/predict")
def predict():
    """Answer one picture."""
    image = Image.open(io.BytesIO(request.get_data())).convert("RGB")
    image = image.resize((INPUT["width_px"], INPUT["height_px"]), Image.Resampling.BILINEAR)
    batch = (np.asarray(image, np.float32)[np.newaxis] - INPUT["mean"]) / INPUT["std"]
    logits = model.predict(batch, verbose=0)
    scores = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[0]
    return dict(zip(CLASSES, scores.tolist(), strict=True))
