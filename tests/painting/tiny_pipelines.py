"""A pipeline of diffusers for each family, with random weights and everything small, made from configs alone.

Sizes of layers follow what each class accepts. diffusers and transformers are imported inside the functions, because
that takes ten seconds.
"""

# mypy: disable-error-code="arg-type, attr-defined, call-arg"
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

VOCABULARY = 300  # bytes, and special tokens
PAD, BOS, EOS, UNK = 256, 257, 258, 259
IMAGE = 260  # stands for an image in a prompt
WIDTH = 32  # of text encoders
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

BUILDERS: dict[str, Callable[[], Any]] = {}  # by class name of the pipeline


@functools.cache
def make_pipeline(name: str) -> Any:
    """Make the tiny pipeline of a class; made once, so a test that changes it must change it back."""
    torch.manual_seed(0)
    pipeline = BUILDERS[name]()
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            randomise(part)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def builder(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register a function that makes the pipeline of its name."""
    BUILDERS[f"{function.__name__}Pipeline"] = function
    return function


def randomise(module: nn.Module) -> nn.Module:
    """Disturb all weights, zeros of a fresh model included, so that prompt and noise both count."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.nan_to_num_(0.0).clamp_(-2, 2)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


# --- text ------------------------------------------------------------------------------------------------------------
def tokenizer(length: int = 77, words: bool = False) -> Any:
    """Make a tokenizer whose tokens are bytes, or unknown words, between <bos> and <eos>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    vocabulary |= {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, "<unk>": UNK, "<image>": IMAGE}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words:
        made = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.ByteLevel()
    ends = [("<bos>", BOS), ("<eos>", EOS)]
    made.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=length, **names)
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    return fast


def clip(projection: bool = False, width: int = WIDTH) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, projection_dim=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5(kind: str = "T5", width: int = WIDTH) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=PAD,
        eos_token_id=EOS, decoder_start_token_id=PAD,
    )  # fmt: skip
    return getattr(transformers, f"{kind}EncoderModel")(config)


def decoder_only(kind: str, model: str = "Model", width: int = WIDTH, **changes: Any) -> Any:
    """Make a language model such as Gemma2Model or Qwen3ForCausalLM."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, max_position_embeddings=4096, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        **{"num_hidden_layers": 2, **changes},
    )  # fmt: skip
    return getattr(transformers, f"{kind}{model}")(config)


def qwen_vl(width: int = WIDTH) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": PAD,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 4], "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": width}
    special = {"image_token_id": IMAGE, "vision_start_token_id": 261, "vision_end_token_id": 262, "video_token_id": 263}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **special))


def qwen3_vl(model: str, width: int = 16, layers: int = 8) -> Any:
    import transformers

    text = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": PAD,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    special = {"image_token_id": IMAGE, "vision_start_token_id": 261, "vision_end_token_id": 262, "video_token_id": 263}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **special)
    return getattr(transformers, model)(config)


def mistral(model: str = "Mistral3ForConditionalGeneration", width: int = 16, layers: int = 1) -> Any:
    import transformers

    text = {
        "model_type": "mistral", "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 16,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": PAD,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Mistral3Config(text_config=text, vision_config=vision, image_token_index=IMAGE)
    return getattr(transformers, model)(config)


class Processor:
    """A processor of text and images of which pipelines here use the text."""

    def __init__(self, length: int = 512) -> None:
        self.tokenizer = tokenizer(length)

    def __call__(self, text: Any = None, images: None = None, videos: None = None, **settings: Any) -> Any:
        return self.tokenizer(text, **settings)

    def apply_chat_template(self, messages: Any, **settings: Any) -> Any:
        def plain(message: Any) -> dict[str, str]:
            parts = message["content"]
            return {"role": message["role"], "content": parts if isinstance(parts, str) else parts[0]["text"]}

        one = isinstance(messages[0], dict)
        chats = [[plain(message) for message in chat] for chat in ([messages] if one else messages)]
        return self.tokenizer.apply_chat_template(chats[0] if one else chats, **settings)


# --- images ----------------------------------------------------------------------------------------------------------
def kl(channels: int = 4, levels: int = 4, **changes: Any) -> Any:
    from diffusers import AutoencoderKL

    options = {
        "block_out_channels": (4,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": channels,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "scaling_factor": 0.5,
    }
    return AutoencoderKL(**{**options, **changes})


def flux_vae(channels: int = 4) -> Any:
    return kl(channels, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)


def movq() -> Any:
    from diffusers import VQModel

    return VQModel(
        block_out_channels=[32] * 4, down_block_types=["DownEncoderBlock2D"] * 4, layers_per_block=1,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=4, norm_type="spatial",
        num_vq_embeddings=12, vq_embed_dim=4,
    )  # fmt: skip


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4, latents_std=[1.1] * 4,
    )  # fmt: skip


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip


def dc_vae() -> Any:
    from diffusers import AutoencoderDC

    blocks, channels, scales = ("ResBlock",) * 4, (8,) * 4, ((),) * 4
    return AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=channels, decoder_block_out_channels=channels, encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales, encoder_layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4,
        downsample_block_type="conv", upsample_block_type="interpolate", scaling_factor=0.4,
    )  # fmt: skip


# --- U-Nets -----------------------------------------------------------------------------------------------------------
def unet(width: int = WIDTH, **changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "norm_num_groups": 2,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": width, "attention_head_dim": 2,
    }  # fmt: skip
    return UNet2DConditionModel(**{**options, **changes})


def xl_unet(width: int, pooled: int, **changes: Any) -> Any:
    return unet(
        width, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=pooled + 6 * 8, **changes,
    )  # fmt: skip


@builder
def StableDiffusion() -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=kl(), text_encoder=clip(), tokenizer=tokenizer(), unet=unet(), safety_checker=None, feature_extractor=None,
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1), requires_safety_checker=False,
    )  # fmt: skip


@builder
def StableDiffusionXL() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=kl(), text_encoder=clip(), text_encoder_2=clip(True), tokenizer=tokenizer(), tokenizer_2=tokenizer(),
        unet=xl_unet(2 * WIDTH, WIDTH), scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    )  # fmt: skip


@builder
def LatentConsistencyModel() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    return LatentConsistencyModelPipeline(
        vae=kl(), text_encoder=clip(), tokenizer=tokenizer(), unet=unet(time_cond_proj_dim=16), safety_checker=None,
        scheduler=LCMScheduler(**BETAS), feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@builder
def Kolors() -> Any:
    from diffusers import EulerDiscreteScheduler, KolorsPipeline
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=VOCABULARY, hidden_size=WIDTH, ffn_hidden_size=32, kv_channels=8,
        num_attention_heads=4, multi_query_attention=True, multi_query_group_num=2, seq_length=256, original_rope=True,
    )  # fmt: skip

    class Tokenizer(type(tokenizer())):  # type: ignore[misc]
        """Numbers the tokens, as ChatGLM's does."""

        def __call__(self, *texts: Any, **settings: Any) -> Any:
            made = super().__call__(*texts, **settings)
            if isinstance(made["input_ids"], torch.Tensor):
                made["position_ids"] = torch.arange(made["input_ids"].shape[1]).expand_as(made["input_ids"])
            return made

    words = tokenizer(256)
    words.__class__ = Tokenizer
    return KolorsPipeline(
        vae=kl(), text_encoder=ChatGLMModel(config), tokenizer=words, unet=xl_unet(WIDTH, WIDTH),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    )  # fmt: skip


@builder
def KandinskyV22Combined() -> Any:
    from diffusers import DDPMScheduler, KandinskyV22CombinedPipeline, PriorTransformer, UnCLIPScheduler

    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection  # isort: skip

    vision = CLIPVisionConfig(
        hidden_size=WIDTH, projection_dim=WIDTH, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1,
        image_size=28, patch_size=14,
    )  # fmt: skip
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=WIDTH, num_layers=1)
    nn.init.ones_(prior.clip_std)
    decoder = unet(
        WIDTH, out_channels=8, addition_embed_type="image", encoder_hid_dim=WIDTH, encoder_hid_dim_type="image_proj",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), attention_head_dim=4,
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), resnet_time_scale_shift="scale_shift",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )  # fmt: skip
    return KandinskyV22CombinedPipeline(
        unet=decoder, movq=movq(), scheduler=DDPMScheduler(**BETAS), prior_prior=prior, prior_tokenizer=tokenizer(),
        prior_image_encoder=CLIPVisionModelWithProjection(vision), prior_text_encoder=clip(True),
        prior_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        prior_image_processor=CLIPImageProcessor(size=28, crop_size=28),
    )  # fmt: skip


@builder
def Kandinsky3() -> Any:
    from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet

    network = Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=WIDTH,
    )  # fmt: skip
    return Kandinsky3Pipeline(
        unet=network, movq=movq(), text_encoder=t5(), tokenizer=tokenizer(), scheduler=DDPMScheduler(**BETAS)
    )


@builder
def StableCascadeCombined() -> Any:
    from diffusers import DDPMWuerstchenScheduler, StableCascadeCombinedPipeline
    from diffusers.models import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    def network(levels: int, **changes: Any) -> Any:
        kinds = ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]
        return StableCascadeUNet(
            block_out_channels=[16] * levels, num_attention_heads=[2] * levels, down_num_layers_per_block=[1] * levels,
            up_num_layers_per_block=[1] * levels, down_blocks_repeat_mappers=[1] * levels, dropout=[0.0] * levels,
            up_blocks_repeat_mappers=[1] * levels, block_types_per_layer=[kinds] * levels, conditioning_dim=32,
            **changes,
        )  # fmt: skip

    return StableCascadeCombinedPipeline(
        tokenizer=tokenizer(), text_encoder=clip(True),
        decoder=network(4, in_channels=4, out_channels=4, clip_text_pooled_in_channels=WIDTH, patch_size=2,
            effnet_in_channels=16),
        scheduler=DDPMWuerstchenScheduler(), vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=4,
            embed_dim=8), prior_prior=network(2, in_channels=16, out_channels=16, switch_level=[False],
            clip_image_in_channels=WIDTH, clip_text_in_channels=WIDTH, clip_text_pooled_in_channels=WIDTH),
        prior_text_encoder=clip(True), prior_tokenizer=tokenizer(), prior_scheduler=DDPMWuerstchenScheduler(),
    )  # fmt: skip


# --- transformers ----------------------------------------------------------------------------------------------------
def flow(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def pixart() -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=WIDTH,
        in_channels=4, cross_attention_dim=16, out_channels=8,
    )  # fmt: skip
    return {
        "transformer": network, "vae": kl(), "text_encoder": t5(), "tokenizer": tokenizer(300),
        "scheduler": DPMSolverMultistepScheduler(**BETAS),
    }  # fmt: skip


@builder
def PixArtSigma() -> Any:
    from diffusers import PixArtSigmaPipeline

    return PixArtSigmaPipeline(**pixart())


@builder
def PixArtAlpha() -> Any:
    from diffusers import PixArtAlphaPipeline

    return PixArtAlphaPipeline(**pixart())


@builder
def HunyuanDiT() -> Any:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel

    network = HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH, pooled_projection_dim=16, hidden_size=16,
        text_len=77, text_len_t5=256,
    )  # fmt: skip
    bert = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=PAD,
    )  # fmt: skip
    return HunyuanDiTPipeline(
        transformer=network, vae=kl(), scheduler=DDPMScheduler(**BETAS), text_encoder=BertModel(bert),
        tokenizer=tokenizer(), text_encoder_2=t5(), tokenizer_2=tokenizer(256), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@builder
def CogView3Plus() -> Any:
    from diffusers import CogVideoXDDIMScheduler, CogView3PlusPipeline, CogView3PlusTransformer2DModel

    network = CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=2, pos_embed_max_size=16, sample_size=8,
    )  # fmt: skip
    return CogView3PlusPipeline(
        transformer=network, vae=kl(), text_encoder=t5(), tokenizer=tokenizer(224), scheduler=CogVideoXDDIMScheduler()
    )


@builder
def StableDiffusion3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    network = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        caption_projection_dim=16, joint_attention_dim=64, pooled_projection_dim=2 * WIDTH, out_channels=4,
        pos_embed_max_size=24,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(shift=3.0), text_encoder=clip(True), tokenizer=tokenizer(),
        text_encoder_2=clip(True), tokenizer_2=tokenizer(), text_encoder_3=t5(width=64), tokenizer_3=tokenizer(256),
    )  # fmt: skip


def flux_like(kind: str, **changes: Any) -> Any:
    import diffusers

    options = {
        "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": [4, 4, 8],
    }  # fmt: skip
    return getattr(diffusers, kind)(**{**options, **changes})


@builder
def Flux() -> Any:
    from diffusers import FluxPipeline

    return FluxPipeline(
        transformer=flux_like("FluxTransformer2DModel", pooled_projection_dim=WIDTH, guidance_embeds=True),
        vae=flux_vae(), scheduler=flow(), text_encoder=clip(), tokenizer=tokenizer(), text_encoder_2=t5(),
        tokenizer_2=tokenizer(512),
    )  # fmt: skip


@builder
def Chroma() -> Any:
    from diffusers import ChromaPipeline

    sizes = {"approximator_hidden_dim": 32, "approximator_layers": 1, "approximator_num_channels": 16}
    return ChromaPipeline(
        transformer=flux_like("ChromaTransformer2DModel", **sizes), vae=flux_vae(), scheduler=flow(),
        text_encoder=t5(), tokenizer=tokenizer(512),
    )  # fmt: skip


def flux2_network(width: int, **changes: Any) -> Any:
    return flux_like(
        "Flux2Transformer2DModel", joint_attention_dim=width, axes_dims_rope=[4, 4, 4, 4],
        timestep_guidance_channels=16, **changes,
    )  # fmt: skip


@builder
def Flux2() -> Any:
    from diffusers import Flux2Pipeline

    return Flux2Pipeline(
        transformer=flux2_network(48), vae=flux2_vae(), scheduler=flow(), text_encoder=mistral(layers=31),
        tokenizer=Processor(),
    )  # fmt: skip


@builder
def Flux2Klein() -> Any:
    from diffusers import Flux2KleinPipeline

    text = decoder_only("Qwen3", "ForCausalLM", 16, num_hidden_layers=28)
    return Flux2KleinPipeline(
        transformer=flux2_network(48, guidance_embeds=False), vae=flux2_vae(), scheduler=flow(), text_encoder=text,
        tokenizer=tokenizer(512),
    )  # fmt: skip


@builder
def QwenImage() -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    return QwenImagePipeline(
        transformer=network, vae=qwen_vae(), scheduler=flow(), text_encoder=qwen_vl(), tokenizer=tokenizer(1024)
    )


@builder
def ZImage() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    network = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(), text_encoder=decoder_only("Qwen3"),
        tokenizer=tokenizer(512),
    )  # fmt: skip


def lumina_sizes(**changes: Any) -> dict[str, Any]:
    return {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 1, "num_attention_heads": 2,
        "num_kv_heads": 2, "multiple_of": 16, **changes}  # fmt: skip


@builder
def Lumina() -> Any:
    from diffusers import LuminaNextDiT2DModel, LuminaPipeline

    network = LuminaNextDiT2DModel(**lumina_sizes(hidden_size=16, cross_attention_dim=WIDTH))
    text = decoder_only("Gemma")
    return LuminaPipeline(transformer=network, vae=kl(), scheduler=flow(), text_encoder=text, tokenizer=tokenizer(256))


@builder
def Lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    network = Lumina2Transformer2DModel(**lumina_sizes(hidden_size=16, axes_dim_rope=[4, 2, 2], cap_feat_dim=WIDTH))
    return Lumina2Pipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(), text_encoder=decoder_only("Gemma2"),
        tokenizer=tokenizer(256),
    )  # fmt: skip


@builder
def AuraFlow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    network = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=WIDTH, out_channels=4,
        pos_embed_max_size=64,
    )  # fmt: skip
    return AuraFlowPipeline(
        transformer=network, vae=kl(), scheduler=flow(), text_encoder=t5("UMT5"), tokenizer=tokenizer(256)
    )


def sana_network(**changes: Any) -> Any:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=WIDTH,
        sample_size=8, **changes,
    )  # fmt: skip


@builder
def Sana() -> Any:
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline

    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    return SanaPipeline(
        transformer=sana_network(), vae=dc_vae(), scheduler=scheduler, text_encoder=decoder_only("Gemma2"),
        tokenizer=tokenizer(300, words=True),
    )  # fmt: skip


@builder
def SanaSprint() -> Any:
    from diffusers import SanaSprintPipeline, SCMScheduler

    return SanaSprintPipeline(
        transformer=sana_network(guidance_embeds=True, qk_norm="rms_norm_across_heads"), vae=dc_vae(),
        scheduler=SCMScheduler(), text_encoder=decoder_only("Gemma2"), tokenizer=tokenizer(300, words=True),
    )  # fmt: skip


@builder
def CogView4() -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    network = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=4, out_channels=4,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    scheduler = flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear")
    return CogView4Pipeline(
        transformer=network, vae=kl(), scheduler=scheduler, text_encoder=decoder_only("Glm"), tokenizer=tokenizer(1024)
    )


@builder
def HunyuanImage() -> Any:
    from diffusers import AutoencoderKLHunyuanImage, HunyuanImagePipeline, HunyuanImageTransformer2DModel

    network = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=True, text_embed_dim=WIDTH, text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,) * 4, layers_per_block=1,
        scaling_factor=0.5, spatial_compression_ratio=8, sample_size=64,
    )  # fmt: skip
    pipeline = HunyuanImagePipeline(
        transformer=network, vae=vae, scheduler=flow(shift=7.0), text_encoder=qwen_vl(), tokenizer=tokenizer(1024),
        text_encoder_2=t5(), tokenizer_2=tokenizer(128), guider=None, ocr_guider=None,
    )  # fmt: skip
    pipeline.tokenizer_max_length = 64  # in place of 1000, to which it pads
    return pipeline


@builder
def HiDreamImage() -> Any:
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel

    network = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=2 * WIDTH, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1),
    )  # fmt: skip
    pipeline = HiDreamImagePipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(), text_encoder=clip(True), tokenizer=tokenizer(),
        text_encoder_2=clip(True), tokenizer_2=tokenizer(), text_encoder_3=t5(), tokenizer_3=tokenizer(128),
        text_encoder_4=decoder_only("Llama", "ForCausalLM"), tokenizer_4=tokenizer(128),
    )  # fmt: skip
    pipeline.default_sample_size = 8
    return pipeline


@builder
def Kandinsky5T2I() -> Any:
    from diffusers import Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel

    network = Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=WIDTH, in_text_dim2=WIDTH, time_dim=16, out_visual_dim=4, patch_size=(1, 2, 2),
        model_dim=16, ff_dim=32, num_text_blocks=1, num_visual_blocks=1, axes_dims=(1, 1, 2), visual_cond=False,
        attention_type="regular",
    )  # fmt: skip
    return Kandinsky5T2IPipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(), text_encoder=qwen_vl(), tokenizer=Processor(512),
        text_encoder_2=clip(), tokenizer_2=tokenizer(),
    )  # fmt: skip


@builder
def Bria() -> Any:
    from diffusers import BriaPipeline

    network = flux_like("BriaTransformer2DModel", attention_head_dim=8, axes_dims_rope=[0, 4, 4])
    return BriaPipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(), text_encoder=t5(), tokenizer=tokenizer(128)
    )


@builder
def OvisImage() -> Any:
    from diffusers import OvisImagePipeline

    network = flux_like("OvisImageTransformer2DModel", out_channels=16)
    return OvisImagePipeline(
        transformer=network, vae=flux_vae(), scheduler=flow(), text_encoder=decoder_only("Qwen3"),
        tokenizer=tokenizer(512),
    )  # fmt: skip


def prx_network(channels: int, **changes: Any) -> Any:
    from diffusers.models import PRXTransformer2DModel

    return PRXTransformer2DModel(
        patch_size=2, in_channels=channels, context_in_dim=WIDTH, hidden_size=8, mlp_ratio=2.0, num_heads=2, depth=1,
        axes_dim=[2, 2], **changes,
    )  # fmt: skip


@builder
def PRX() -> Any:
    from diffusers import PRXPipeline
    from transformers import T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    text = T5GemmaModuleConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, layer_types=["full_attention"], pad_token_id=PAD, dropout_rate=0.0,
        attn_logit_softcapping=50.0, query_pre_attn_scalar=8, attention_bias=False, attention_dropout=0.0,
    )  # fmt: skip
    return PRXPipeline(
        transformer=prx_network(4), vae=flux_vae(), scheduler=flow(), text_encoder=T5GemmaEncoder(text),
        tokenizer=tokenizer(64), default_sample_size=64,
    )  # fmt: skip


@builder
def PRXPixel() -> Any:
    from diffusers import PRXPixelPipeline

    return PRXPixelPipeline(
        transformer=prx_network(3, bottleneck_size=8, resolution_embeds=True), scheduler=flow(),
        text_encoder=decoder_only("Qwen3"), tokenizer=tokenizer(64), default_sample_size=64, prompt_max_tokens=16,
    )  # fmt: skip


@builder
def Krea2() -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel

    network = Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, timestep_embed_dim=8, text_hidden_dim=16, num_text_layers=3, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2), rope_theta=1000.0,
    )  # fmt: skip
    return Krea2Pipeline(
        transformer=network, vae=qwen_vae(), scheduler=flow(), text_encoder=qwen3_vl("Qwen3VLModel", layers=2),
        tokenizer=tokenizer(512), text_encoder_select_layers=(0, 1, 2),
    )  # fmt: skip


@builder
def ErnieImage() -> Any:
    from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel

    network = ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16, out_channels=16,
        patch_size=1, text_in_dim=16, rope_axes_dim=(8, 4, 4),
    )  # fmt: skip
    return ErnieImagePipeline(
        transformer=network, vae=flux2_vae(), scheduler=flow(), text_encoder=mistral("Mistral3Model", layers=2),
        tokenizer=tokenizer(512), pe=None, pe_tokenizer=None,
    )  # fmt: skip


@builder
def LongCatImage() -> Any:
    from diffusers import LongCatImagePipeline

    network = flux_like("LongCatImageTransformer2DModel", in_channels=64)
    pipeline = LongCatImagePipeline(
        transformer=network, vae=flux_vae(16), scheduler=flow(), text_encoder=qwen_vl(), tokenizer=tokenizer(512),
        text_processor=Processor(),
    )  # fmt: skip
    pipeline.tokenizer_max_length = 64  # in place of 512, to which it pads
    return pipeline


@builder
def NucleusMoEImage() -> Any:
    from diffusers import NucleusMoEImagePipeline
    from diffusers.models import NucleusMoEImageTransformer2DModel

    network = NucleusMoEImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4), moe_enabled=False, capacity_factors=[8.0],
    )  # fmt: skip
    return NucleusMoEImagePipeline(
        transformer=network, vae=qwen_vae(), scheduler=flow(),
        text_encoder=qwen3_vl("Qwen3VLForConditionalGeneration"), processor=Processor(1024),
    )  # fmt: skip
