"""The engines: the only modules that import a framework or a runtime."""

import sys

# Marks OpenVINO's telemetry package as not importable, so that OpenVINO takes its own stub instead: its converter
# would otherwise report each run to its makers. Must stand before the first `import openvino`.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None is Python's own mark for this
