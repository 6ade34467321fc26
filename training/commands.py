"""Runs `flask models …` on a model repository, in this process."""

import json
from pathlib import Path
from typing import Any

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.config.settings import Settings


class Commands:
    """The commands, with their output on the terminal; one that fails ends the recipe."""

    def __init__(self, models: Path, instance: Path) -> None:
        self._settings = Settings(models=models, instance=instance, auth="off")
        self._instance = instance
        self._clients: dict[str, Any] = {}

    def run(self, *arguments: object, may_fail: bool = False) -> None:
        """Run `flask models ARGUMENTS`."""
        app = create_app(self._settings)
        services: Services = app.extensions[EXTENSION]
        services.follower.close()  # a command follows nothing
        done = app.test_cli_runner().invoke(args=["models", *map(str, arguments)])
        print(done.output, flush=True)
        if done.exit_code and not may_fail:
            raise SystemExit(f"models {arguments[0]} failed: {done.exception}")

    def evaluate(self, label: str, pictures: Path) -> dict[str, Any]:
        """Run `flask models evaluate`, and return its report."""
        self.run("evaluate", label, "--data", pictures)
        report: dict[str, Any] = json.loads((self._instance / "evaluations" / f"{label}.json").read_text("utf-8"))
        return report

    def ask(self, label: str, picture: Path) -> dict[str, Any]:
        """Return the service's answer for a picture."""
        if label not in self._clients:
            self._clients[label] = create_app(self._settings).test_client()
        answer: dict[str, Any] = self._clients[label].put(f"/predictions/{label}", data=picture.read_bytes()).get_json()
        return answer
