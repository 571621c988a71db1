"""What a measurement ran on, by its parts."""

from __future__ import annotations

import platform
from typing import Any

import torch


def processor() -> tuple[str, int]:
    """The processor's name, and how many of it the system counts (0 where it does not say)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return (names[0] if names else platform.processor() or platform.machine()), len(names)


def machine(device: torch.device) -> dict[str, Any]:
    """Device, torch, threads, processor and Python; on a CUDA device also the GPU's name."""
    name, count = processor()
    about = {
        "device": str(device), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "processor": f"{name} × {count}" if count else name, "python": platform.python_version(),
    }  # fmt: skip
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about
