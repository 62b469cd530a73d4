# ruff: noqa: INP001 - no package: its folder is on the engine's path
"""Gives vLLM the plug-in of draftgate, also where the engine's interpreter does not have draftgate.

This folder is on the path of each engine that draftgate starts. It holds this file alone, and an entry point
by which vLLM finds it.
"""

import runpy
from pathlib import Path

register = runpy.run_path(str(Path(__file__).parents[1] / "vllm_plugin.py"))["register"]
