"""Starts the real page in a process of its own, once for all tests that visit it."""

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS = 60  # the test machine may be busy; the promise of 15 s is checked by hand


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "OMP_WAIT_POLICY": "passive"}


@functools.cache
def page_url() -> str:
    """Address of the running page, `http://127.0.0.1:PORT/`."""
    port = free_port()
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--device", "cpu", "--max-new-tokens", "256"]
    process = subprocess.Popen(
        command, cwd="/", env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    atexit.register(process.kill)
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the page ended at once:\n{process.stdout.read()}")
        try:
            with urllib.request.urlopen(url + "health", timeout=5) as answer:
                if json.loads(answer.read())["status"] == "ok":
                    return url
        except OSError:
            pass
        time.sleep(0.2)
    process.kill()
    raise RuntimeError(f"the page was not up after {START_SECONDS} s:\n{process.stdout.read()}")
