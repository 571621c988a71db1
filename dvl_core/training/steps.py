"""One forward pass and loss per stage, on packed batches. These are the functions that get compiled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionModel

from .masks import additive, block_diffusion_mask, tree_causal_mask
from .packing import IGNORE
from .vision import patch_positions, patchify, picture_block, picture_features

PICTURE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of Qwen2-VL's image processor
PICTURE_STD = (0.26862954, 0.26130258, 0.27577711)


class PatchHeads(nn.ModuleDict):
    """One linear head per attribute of a picture's patches (`tinyworld.labels.HEADS`), thrown away after training."""

    def __init__(self, width: int, heads: dict[str, int]) -> None:
        super().__init__({name: nn.Linear(width, classes) for name, classes in heads.items()})

    def forward(self, features: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross entropy, things and empty patches weighted alike; and the accuracy on things per attribute.

        Args:
            features: of the vision tower, [B, tokens, D]; normalised here.
            labels: attribute -> class of every token, [B, tokens].
        """
        features = F.rms_norm(features.float(), features.shape[-1:])
        total, right = features.new_zeros(()), {}
        for name, head in self.items():
            logits, label = head(features), labels[name]
            loss = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view_as(label)
            there = (label > 0).float()
            total = total + (loss * there).sum() / there.sum().clamp(min=1)
            total = total + 0.5 * (loss * (1 - there)).sum() / (1 - there).sum().clamp(min=1)
            right[name] = ((logits.argmax(-1) == label) * there).sum() / there.sum().clamp(min=1)
        return total, right


class VisionWarmup(nn.Module):
    """A vision tower and heads for what it should know of every patch."""

    def __init__(self, model: nn.Module, heads: dict[str, int]) -> None:
        super().__init__()
        self.reader = picture_reader(model)
        self.heads = PatchHeads(self.reader.patch_width, heads)

    def compile_layers(self) -> None:
        """Compile what every layer shares."""
        self.reader.compile_layers()

    def forward(self, pictures: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and accuracies of `PatchHeads`."""
        return self.heads(self.reader.patches(pictures), labels)


class PictureReader(nn.Module):
    """Picture bytes [B, S, S, 3] to features [B, tokens, D]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual, self.patch_width = model.model.visual, model.config.text_config.hidden_size
        vision = model.config.vision_config
        self.sizes, self.block = (vision.patch_size, vision.spatial_merge_size), picture_block
        self.register_buffer("mean", torch.tensor(PICTURE_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PICTURE_STD), persistent=False)

    def compile_layers(self) -> None:
        """Compile what every layer shares."""
        self.block = torch.compile(picture_block)

    def forward(self, pictures: Tensor) -> Tensor:
        """What enters the decoder."""
        return self.project(self.patches(pictures))

    def project(self, patches: Tensor) -> Tensor:
        """The tower's merger has the decoder's width already."""
        return patches

    def patches(self, pictures: Tensor) -> Tensor:
        """Normalise, cut into patches, read: what the heads of the warm-up see."""
        patch, merge = self.sizes
        rows = patchify(pictures, patch, merge, 1, self.mean, self.std)
        positions = patch_positions(pictures.shape[1] // patch, merge, rows.device)
        return picture_features(self.visual, rows, positions, self.block)


class TileReader(nn.Module):
    """`PictureReader` for the language-model family, whose pictures are one tile; or for its SigLIP tower alone.

    A tower alone is read as the family will read it: without its last layer, which translation drops.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        alone = isinstance(model, SiglipVisionModel)
        tower = model if alone else model.vision_tower
        self.visual = nn.ModuleDict({"embeddings": tower.embeddings,
                                     "layers": tower.encoder.layers[:-1] if alone else tower.encoder.layers})
        self.merger = nn.Identity() if alone else model.mm_projector
        self.patch_width = tower.config.hidden_size

    def compile_layers(self) -> None:
        """Compile what every layer shares."""
        for layer in self.visual["layers"]:
            layer.compile()

    def forward(self, pictures: Tensor) -> Tensor:
        """What enters the decoder."""
        return self.project(self.patches(pictures))

    def project(self, patches: Tensor) -> Tensor:
        """The tower's features at the decoder's width; as they are where there is no decoder."""
        return self.merger(patches)

    def patches(self, pictures: Tensor) -> Tensor:
        """Normalise as SigLIP's picture processor does, read: what the heads of the warm-up see."""
        x = self.visual["embeddings"](pictures.float().permute(0, 3, 1, 2) / 127.5 - 1)
        for layer in self.visual["layers"]:
            x = layer(x, None)
        return x


class NoPicture(nn.Module):
    """Stands where the tower would: for a language model without eyes, and for rows without a picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def compile_layers(self) -> None:
        """There are none."""

    def forward(self, pictures: Tensor) -> Tensor:
        """No features at all, [B, 0, D]."""
        return torch.zeros(len(pictures), 0, self.width, device=pictures.device)


def picture_reader(model: nn.Module) -> nn.Module:
    """What reads pictures for a model of either family, for a SigLIP tower, or for a plain language model."""
    if isinstance(model, SiglipVisionModel) or hasattr(model, "mm_projector"):
        return TileReader(model)
    return PictureReader(model) if hasattr(model.model, "visual") else NoPicture(model.config.hidden_size)


def with_picture(words: Tensor, features: Tensor, at: slice) -> Tensor:
    """Embeddings [B, L, D] with a picture's features in their place."""
    return torch.cat([words[:, : at.start], features.to(words.dtype), words[:, at.stop :]], 1)


class PackedLanguage(nn.Module):
    """Picture and packed conversations to the loss of the autoregressive or the diffusion stage.

    With `heads` there is a second loss, for what the vision tower should know of every patch: its features are
    computed already, so each picture teaches reading once more for next to nothing.
    """

    def __init__(self, model: nn.Module, picture_at: slice, block_size: int, diffusion: bool,
                 heads: PatchHeads | None = None) -> None:
        super().__init__()
        self.reader, self.heads = picture_reader(model), heads
        self.language, self.lm_head = model.get_decoder(), model.lm_head
        self.picture_at, self.block_size, self.diffusion = picture_at, block_size, diffusion

    def compile_layers(self) -> None:
        """Compile what every layer shares, in the tower and in the decoder."""
        self.reader.compile_layers()
        for layer in self.language.layers:
            layer.compile()

    def mask(self, positions: Tensor, segment: Tensor, noisy: Tensor, complement: Tensor) -> Tensor:
        """What to add to attention scores, [B, 1, L, L]. Not part of `forward`, whose compiled kernels would work it
        out again in every layer.

        Blocks count twice, and a second noisy copy takes the number between its block's and the one before, so that it
        sees itself and what is clean before it, as the first does, and neither sees the other.
        """
        if self.diffusion:
            block = 2 * (positions // self.block_size) - complement.long()
            return additive(block_diffusion_mask(block, noisy, segment))
        return additive(tree_causal_mask(segment))

    def forward(self, pictures: Tensor, ids: Tensor, positions: Tensor, mask: Tensor, labels: Tensor,
                weight: Tensor, patches: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted cross entropy summed over the batch; where the arg-max is right, bool [B, L]; and the loss of the
        heads (0 without any) for the labels `patches`."""
        if self.heads is None:
            features, reading = self.reader(pictures), torch.zeros((), device=ids.device)
        else:
            read = self.reader.patches(pictures)
            features, reading = self.reader.project(read), self.heads(read, patches)[0]
        embeds = with_picture(self.language.embed_tokens(ids), features, self.picture_at)
        hidden = self.language(
            inputs_embeds=embeds,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        logits = self.lm_head(hidden).float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE)
        return (loss.view_as(weight) * weight).sum(), logits.argmax(-1) == labels, reading
