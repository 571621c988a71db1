"""The public benchmarks (MMMU-Pro, MME, …) through lmms-eval: `pip install lmms-eval`, then

    python -m dvl_core.evaluation.lmms --model diffusionvl --tasks mme --batch_size 8 \\
        --model_args pretrained=hustvl/DiffusionVL-Qwen2.5VL-3B,strategy=low_confidence_dynamic,threshold=0.9

This adds the model `diffusionvl` to lmms-eval, whose command line all of this is
(https://github.com/EvolvingLMMs-Lab/lmms-eval). `pretrained` is a folder or a repository on the Hub; `device` and
`dtype` are those of `load_model`; whatever else stands in `--model_args` is a field of `DecodingConfig`, and counts
more than what a task asks for. An autoregressive parent is evaluated the same way.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from ..decoding import DecodingConfig
from ..models.loading import load_model
from ..processing.conversation import ConversationError
from ..processing.images import ImageError
from .asking import ask_conversations

try:
    from lmms_eval.api.model import lmms
except ImportError:  # the adapter itself needs nothing of it
    lmms = object

log = logging.getLogger(__name__)


class DiffusionVL(lmms):
    """A checkpoint as lmms-eval's chat models are.

    Args:
        pretrained: folder, or repository on the Hub.
        device: as for `load_model`; by default the best one, or with several processes the process's own.
        dtype: as for `load_model`.
        batch_size: conversations answered at once.
        max_batch_size: not used; lmms-eval hands it to every model.
        decoding: fields of `DecodingConfig`.

    Raises:
        ValueError: naming a setting that there isn't or that can't be.
        CheckpointError: when the model can't be loaded.
    """

    is_simple = False

    def __init__(self, pretrained: str, device: str | None = None, dtype: str = "auto", batch_size: int | str = 1,
                 max_batch_size: int | None = None, **decoding: Any) -> None:
        super().__init__()
        self.task_dict: dict[str, Any] = {}
        if unknown := sorted(set(decoding) - DecodingConfig.names()):
            raise ValueError(f"model_args: {unknown[0]} must be pretrained, device, dtype or one of "
                             f"{', '.join(sorted(DecodingConfig.names()))}.")
        if not str(batch_size).isdigit() or not int(batch_size):
            raise ValueError(f"batch_size must be a whole number of at least 1; got {batch_size!r}.")
        DecodingConfig(**decoding)  # refuse what can't be before anything is loaded
        self.batch_size, self.decoding = int(batch_size), decoding
        state = PartialState()
        own = str(state.device) if state.num_processes > 1 else "auto"
        self.model, self.processor = load_model(pretrained, device=device or own, dtype=dtype)
        self.device = self.model.device

    def config(self, asked: dict[str, Any]) -> DecodingConfig:
        """How to decode for a task: its `max_new_tokens`, and its sampling if it wants any, then one's own settings."""
        settings = {"max_new_tokens": asked["max_new_tokens"]} if asked.get("max_new_tokens") else {}
        if asked.get("temperature") and asked.get("do_sample", True):
            settings |= {name: asked[name] for name in ("temperature", "top_p", "top_k") if asked.get(name)}
        return self.model.default_config(**settings | self.decoding)

    def generate_until(self, requests: Sequence[Any]) -> list[tuple[str, dict[str, int]]]:
        """Answer lmms-eval's requests, those with the same settings together.

        Args:
            requests: each with `args` (context, function from a document to messages, settings of the task, number of
                the document, task, split).

        Returns:
            in their order: the answer up to the task's stop string, and how many tokens were written. What can't be
            asked (a film, a picture of no size) is answered with nothing, and said in the log.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[json.dumps(request.args[2], sort_keys=True, default=str)].append(number)
        answers: list[Any] = [None] * len(requests)
        with tqdm(total=len(requests), desc="answers", disable=getattr(self, "rank", 0) != 0) as bar:
            for numbers in groups.values():
                for start in range(0, len(numbers), self.batch_size):
                    chunk = numbers[start : start + self.batch_size]
                    for number, answer in zip(chunk, self._answered([requests[n].args for n in chunk]), strict=True):
                        answers[number] = answer
                    bar.update(len(chunk))
        return answers

    def _answered(self, asked: list[tuple]) -> Iterable[tuple[str, dict[str, int]]]:
        """The answers to some requests with the same settings."""
        conversations = [talk(self.task_dict[task][split][document]) for _, talk, _, document, task, split in asked]
        settings = asked[0][2]
        try:
            given = ask_conversations(self.model, self.processor, conversations, self.config(settings))
        except (ConversationError, ImageError) as error:
            if len(asked) > 1:  # the others can be asked
                return [answer for one in asked for answer in self._answered([one])]
            log.warning("%s, document %s: %s", asked[0][4], asked[0][3], error)
            given = [("", 0, 0)]
        return [(before(text, settings.get("until")), {"output_tokens": tokens}) for text, tokens, _ in given]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raises NotImplementedError: blocks are denoised in any order, which gives no likelihood of a text."""
        raise NotImplementedError("block diffusion gives no likelihood of a text: choose tasks that generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises NotImplementedError."""
        raise NotImplementedError("tasks of several rounds are not supported: choose tasks that generate_until")


def before(text: str, stops: str | Sequence[str] | None) -> str:
    """A text up to the first of some strings."""
    stops = [stops] if isinstance(stops, str) else stops or ()
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]


def main() -> int:
    """lmms-eval's command line, with the model `diffusionvl`; 2 where lmms-eval is not installed."""
    if lmms is object:
        print("lmms: lmms-eval is not installed: pip install lmms-eval", file=sys.stderr)
        return 2
    from lmms_eval.__main__ import cli_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    MODEL_REGISTRY_V2.register_manifest(
        ModelManifest(model_id="diffusionvl", chat_class_path="dvl_core.evaluation.lmms.DiffusionVL"))
    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
