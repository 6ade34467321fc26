"""Ask the API for the class of a picture: python classify.py MODEL PICTURE. Needs nothing but Python."""

import base64, json, os, sys, time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

model, picture = sys.argv[1:]
address = os.environ.get("CLASSIFY_URL", "http://127.0.0.1:8080") + f"/predictions/{model}"
login = base64.b64encode(f"{os.environ['CLASSIFY_USER']}:{os.environ['CLASSIFY_PASSWORD']}".encode()).decode()
headers = {"Authorization": f"Basic {login}", "Content-Type": "application/octet-stream"}
for _ in range(30):
    try:
        with urlopen(Request(address, Path(picture).read_bytes(), headers, method="PUT")) as response:
            answer = json.load(response)
        sys.exit(print(*(f"{key}={answer.get(key)}" for key in ("class", "score", "threshold", "cannot_tell"))))
    except HTTPError as error:
        if error.code != 503:  # 401: wrong user or password; 422: the picture is broken, or not of the model's kind
            sys.exit(f"{error.code}: {json.load(error)['message']}")
        time.sleep(float(error.headers.get("Retry-After", 1)))
sys.exit("503: the server is busy")
