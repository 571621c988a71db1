"""The configurations that ship: all of them are valid, and the tiny one trains the bundled parent."""

from pathlib import Path

import pytest
import torch
import yaml

from dvl_core import load_model
from dvl_core.train import main
from dvl_core.training.config import load_config
from dvl_core.training.logs import read_log

CONFIGS = Path(__file__).parents[1] / "assets" / "configs"
LAUNCHERS = sorted((CONFIGS / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_valid(path):
    config = load_config(path)
    assert config.output == f"runs/{path.stem}"
    assert config.accumulation(1 if config.data.kind == "tinyworld" else 8) >= 1
    recipe = config.data.files == ("data/llava_next_738k.json",) and not config.lora.rank
    if recipe:  # the published numbers
        assert (config.batch, config.schedule.epochs, config.schedule.warmup) == (256, 1, 0.03)
        assert (config.optimizer.lr.language, config.optimizer.lr.vision) == (1e-5, 2e-6)
        assert (config.objective.block_size, config.objective.low, config.data.max_length) == (8, 1e-3, 8192)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launchers_are_what_accelerate_reads(path):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))
    assert config.mixed_precision == "bf16" and config.num_processes == 8
    assert yaml.safe_load(path.read_text())["distributed_type"] == config.distributed_type.value


def test_the_tiny_configuration_learns(tmp_path):
    """What CI sees of training: eight small updates of the bundled parent, and the held-out loss falls clearly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    try:
        settings = [f"output={tmp_path}", "batch=8", "micro_batch=8", "schedule.steps=8", "evaluation.every=8",
                    "evaluation.rows=16", "logging.progress=false"]
        assert main(["--config", str(CONFIGS / "tinyvl.yaml"), *(part for s in settings for part in ("--set", s))]) == 0
    finally:
        torch.set_num_threads(threads)
    before, after = (entry for entry in read_log(tmp_path / "log.jsonl") if "held_out_loss" in entry)
    assert after["held_out_loss"] < 0.75 * before["held_out_loss"]
    assert load_model(tmp_path / "model", device="cpu")[0].config.enable_bd3lm
