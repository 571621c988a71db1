"""Small training runs for the tests: a checkpoint, a LLaVA set of coloured pictures, settings, and ways to run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from qwen_tokenizer import SPECIAL_IDS, qwen_tokenizer
from tiny import tiny_config
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from dvl_core.models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from dvl_core.processing import DiffusionVLQwenVLProcessor
from dvl_core.training.config import TrainConfig
from dvl_core.training.logs import read_log
from dvl_core.training.settings import build
from dvl_core.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def small_checkpoint(folder: Path) -> Path:
    """The VL family with 30,000 parameters, a byte tokenizer and pictures of 16 tokens: saved in no time."""
    plain = [token for token, number in qwen_tokenizer().get_vocab().items() if number < 256]
    names = {token: 256 + number for number, token in enumerate(SPECIAL_IDS)}
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(sorted(plain))} | names, merges=[],
        eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=list(names),
    )
    torch.manual_seed(0)
    config = tiny_config(tie_word_embeddings=True)
    config.text_config.vocab_size, config.text_config.tie_word_embeddings = 256 + len(names), True
    config.eos_token_id, config.mask_token_id = names["<|im_end|>"], names["<|mask|>"]
    config.image_token_id = names["<|image_pad|>"]
    DiffusionVLQwenVLForConditionalGeneration(config).save_pretrained(folder)
    pictures = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=4096)
    DiffusionVLQwenVLProcessor(pictures, tokenizer, system_prompt=None, fixed_size=32).save_pretrained(folder)
    return folder


def llava_set(folder: Path, count: int = 16) -> Path:
    """Pictures of one colour each, and two questions about each; sample 5 has lost its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        Image.new("RGB", (60, 40 + number), (number * 15, 90, 30)).save(folder / f"{number}.png")
        texts = ("<image>\nWhat is this?", "A cat." if number % 2 else "the picture", "Sure?", "A cat. Sure?")
        turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
        samples.append({"id": f"s{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "5.png").unlink()
    (folder / "set.json").write_text(json.dumps(samples))
    return folder


def settings(model: Path, pictures: Path, output: Path, **fields) -> dict:
    """A run of six updates of four rows; `fields` override, those of `data` one by one."""
    rates = {"vision": 1e-3, "projector": 1e-3, "language": 1e-3}
    base = {
        "model": str(model), "output": str(output), "batch": 4, "micro_batch": 2,
        "data": {"kind": "llava", "files": [str(pictures / "set.json")], "image_folder": str(pictures), "workers": 0},
        "schedule": {"steps": 6}, "optimizer": {"lr": rates}, "logging": {"every": 1, "progress": False},
        "checkpoints": {"every": 2},
    }  # fmt: skip
    return base | fields | {"data": base["data"] | fields.get("data", {})}


def fresh() -> None:
    """Leave no state from the run before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def trainer(values: dict) -> Trainer:
    """A fresh run in this process, on one thread as in those of `start`."""
    fresh()
    torch.set_num_threads(1)
    return Trainer(build(TrainConfig, values))


def train(values: dict) -> Path:
    """Train to the end in this process; returns the finished model's folder."""
    return trainer(values).run()


def start(values: dict, place: Path, *launcher: str, **environment: str) -> subprocess.Popen:
    """`dvl_core.train` in a process of its own, or in those of a launcher; `place`: for its configuration file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(values))
    command = [sys.executable, *launcher, "-m", "dvl_core.train", "--config", str(place)]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT | environment, stderr=subprocess.PIPE, text=True)


def losses(output: Path) -> dict[int, float]:
    """Loss by update, as logged."""
    found = {}
    for entry in read_log(output / "log.jsonl"):
        if "loss" in entry:
            assert entry["step"] not in found, "an update is in the log twice"
            found[entry["step"]] = entry["loss"]
    return found
