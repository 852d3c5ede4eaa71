"""Translate the names of tensors from diffusers to CompVis, by rules."""

import re
from collections.abc import Callable, Sequence

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def _rename(name: str, prefix: str, rules: Sequence[Rule]) -> str:
    """Apply each rule once to `name`, in order, and add `prefix`; a name that no rule matches is not changed."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return prefix + name


_UNET_LAYERS: tuple[Rule, ...] = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
_UNET_RESBLOCK: tuple[Rule, ...] = (
    (r"\bnorm1\.", "in_layers.0."),
    (r"\bconv1\.", "in_layers.2."),
    (r"\btime_emb_proj\.", "emb_layers.1."),
    (r"\bnorm2\.", "out_layers.0."),
    (r"\bconv2\.", "out_layers.3."),
    (r"\bconv_shortcut\.", "skip_connection."),
)


def unet_name(name: str, layers_per_block: int, up_block_types: Sequence[str]) -> str:
    """Translate the name of a tensor of diffusers' `UNet2DConditionModel` to CompVis's.

    CompVis numbers all blocks of a side consecutively; `input_blocks.0` is the first convolution. A downsampling is a
    block of its own, an upsampling is the last layer of a block.
    """
    per_level = layers_per_block + 1  # blocks

    def down(layer: int) -> Callable[[re.Match[str]], str]:
        return lambda match: f"input_blocks.{1 + int(match[1]) * per_level + int(match[2])}.{layer}."

    def up(layer: int) -> Callable[[re.Match[str]], str]:
        return lambda match: f"output_blocks.{int(match[1]) * per_level + int(match[2])}.{layer}."

    def downsampler(match: re.Match[str]) -> str:
        return f"input_blocks.{(int(match[1]) + 1) * per_level}.0.op."

    def upsampler(match: re.Match[str]) -> str:
        level = int(match[1])
        layer = 2 if up_block_types[level].startswith("CrossAttn") else 1
        return f"output_blocks.{level * per_level + layers_per_block}.{layer}."

    levels: tuple[Rule, ...] = (
        (r"^down_blocks\.(\d+)\.resnets\.(\d+)\.", down(0)),
        (r"^down_blocks\.(\d+)\.attentions\.(\d+)\.", down(1)),
        (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.", downsampler),
        (r"^up_blocks\.(\d+)\.resnets\.(\d+)\.", up(0)),
        (r"^up_blocks\.(\d+)\.attentions\.(\d+)\.", up(1)),
        (r"^up_blocks\.(\d+)\.upsamplers\.0\.", upsampler),
    )
    resblock = _UNET_RESBLOCK if ".resnets." in name else ()
    return _rename(name, "model.diffusion_model.", (*_UNET_LAYERS, *levels, *resblock))


_AUTOENCODER_LAYERS: tuple[Rule, ...] = (
    (r"\bdown_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"\bdown_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\battn_1\.group_norm\.", "attn_1.norm."),
    (r"\battn_1\.(?:to_q|query)\.", "attn_1.q."),
    (r"\battn_1\.(?:to_k|key)\.", "attn_1.k."),
    (r"\battn_1\.(?:to_v|value)\.", "attn_1.v."),
    (r"\battn_1\.(?:to_out\.0|proj_attn)\.", "attn_1.proj_out."),
    (r"\bconv_shortcut\.", "nin_shortcut."),
    (r"\bconv_norm_out\.", "norm_out."),
)


def autoencoder_name(name: str, levels: int) -> str:
    """Translate the name of a tensor of diffusers' `AutoencoderKL` with `levels` resolutions to CompVis's.

    CompVis numbers the levels of the decoder from the finest, diffusers from the coarsest.
    """
    ups: tuple[Rule, ...] = (
        (r"\bup_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block."),
        (r"\bup_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample."),
    )
    return _rename(name, "first_stage_model.", (*ups, *_AUTOENCODER_LAYERS))


def text_encoder_name(name: str) -> str:
    """Translate the name of a tensor of diffusers' `LDMBertModel` to CompVis's.

    Each layer of diffusers is two here, attention and perceptron.
    """

    def attention(match: re.Match[str]) -> str:
        return f"attn_layers.layers.{2 * int(match[1])}."

    def perceptron(match: re.Match[str]) -> str:
        return f"attn_layers.layers.{2 * int(match[1]) + 1}."

    rules: tuple[Rule, ...] = (
        (r"^model\.", ""),
        (r"^embed_tokens\.", "token_emb."),
        (r"^embed_positions\.", "pos_emb.emb."),
        (r"^layer_norm\.", "norm."),
        (r"^layers\.(\d+)\.(?=self_attn)", attention),
        (r"^layers\.(\d+)\.(?=fc|final_layer_norm)", perceptron),
        (r"\bself_attn_layer_norm\.", "0."),
        (r"\bfinal_layer_norm\.", "0."),
        (r"\bself_attn\.([qkv])_proj\.", r"1.to_\1."),
        (r"\bself_attn\.out_proj\.", "1.to_out."),
        (r"\bfc1\.", "1.net.0.0."),
        (r"\bfc2\.", "1.net.2."),
    )
    return _rename(name, "cond_stage_model.transformer.", rules)
