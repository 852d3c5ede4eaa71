"""Compare U-Net, autoencoder and text encoder with those of diffusers, and their keys with published ones."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from config import CONFIGS_DIR
from ldm.checkpoint import build_model, load_model, read_config
from ldm.diffusers_folder import autoencoder_config, text_encoder_config, unet_config
from ldm.diffusers_names import autoencoder_name, text_encoder_name, unet_name
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.sampling import SamplingSettings
from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.openaimodel import ResBlock
from ldm.modules.diffusionmodules.util import GroupNorm
from ldm.modules.shapes import NAMED_ATTRIBUTES
from ldm.util import instantiate_from_config
from tests.ldm.tiny_pipeline import (
    PROMPT,
    SIZE,
    WIDTH,
    WORDS,
    make_autoencoder,
    make_pipeline,
    make_text_encoder,
    make_unet,
    randomise,
    relative_error,
)

TOLERANCE = 1e-5  # relative, in float32
LARGE = CONFIGS_DIR / "latent-diffusion" / "txt2img-1p4B-eval.yaml"
HERE = Path("the test")

pytestmark = [
    pytest.mark.slow,  # importing diffusers takes ten seconds
    pytest.mark.filterwarnings("ignore"),  # of diffusers and transformers about themselves
]


def load_ours(reference: nn.Module, node: dict, rename) -> Any:
    """Build our module by the config of `reference`, with its weights."""
    ours = instantiate_from_config(node)
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    state = {}
    for name, tensor in reference.state_dict().items():
        new = rename(name)
        new = next(new.removeprefix(prefix) for prefix in prefixes if new.startswith(prefix))
        state[new] = tensor[:, :, None, None] if ".attn_1." in new and tensor.ndim == 2 else tensor
    state = {name: tensor for name, tensor in state.items() if "to_logits" not in name}
    ours.load_state_dict(state, strict=True)
    return ours.eval()


def unet_pair(**changes) -> tuple[Any, Any]:
    reference = make_unet(**changes)
    config = dict(reference.config)
    rename = lambda name: unet_name(name, config["layers_per_block"], config["up_block_types"])  # noqa: E731
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    return load_ours(reference, unet_config(config, HERE), rename), reference


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers_per_block": 1, "attention_head_dim": 4},
        {"attention_head_dim": [4, 8, 8]},  # the same width of a head at each level
        {"transformer_layers_per_block": 2, "block_out_channels": (32, 96, 128)},
        {
            "block_out_channels": (32, 64, 128, 128),  # the levels of the 1.45 B model
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        },
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        },
    ],
    ids=["plain", "one layer", "head widths", "depth 2", "four levels", "attention below"],
)
@torch.no_grad()
def test_unet_agrees_with_diffusers(changes):
    ours, reference = unet_pair(**changes)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 16, 8, generator=generator)
    t = torch.tensor([1, 981])
    context = torch.randn(2, 7, WIDTH, generator=generator)
    expected = reference(x, t, encoder_hidden_states=context).sample
    assert relative_error(ours(x, t, context), expected) < TOLERANCE
    channels_last = ours.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t, context)
    assert relative_error(channels_last, expected) < TOLERANCE


@torch.no_grad()
def test_keys_and_values_of_a_prompt_are_computed_once():
    ours, _ = unet_pair()
    fresh = copy.deepcopy(ours)
    projections = [module.attn2.to_k for module in ours.modules() if isinstance(module, BasicTransformerBlock)]
    computed = []
    for projection in projections:
        projection.register_forward_hook(lambda *_: computed.append(1))
    x, first, second = torch.randn(1, 4, 8, 8), torch.randn(1, 7, WIDTH), torch.randn(1, 7, WIDTH)
    for context in (first, first, second, first):
        t = torch.tensor([len(computed)])
        assert torch.equal(ours(x, t, context), fresh(x, t, context.clone()))
    assert len(computed) == 3 * len(projections)
    with torch.enable_grad():  # in training the projections change, and their gradients are needed
        ours(x, t, first).sum().backward()
    gradients = [projection.weight.grad for projection in projections]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("size", [(2, 64, 8, 8), (1, 64, 32, 32), (2, 96, 16, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_is_torchs(size, layout):
    ours, theirs = GroupNorm(size[1], eps=1e-6), nn.GroupNorm(32, size[1], eps=1e-6)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    x = (3 * torch.randn(size) + 1).to(memory_format=layout)
    normed = ours(x)
    assert normed.is_contiguous(memory_format=layout)
    assert torch.allclose(normed, theirs(x.contiguous()), atol=1e-5)


@torch.no_grad()
def test_unet_in_bfloat16_is_near_float32():
    ours, _ = unet_pair()
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 7, WIDTH)
    expected = ours(x, t, context)
    half = ours.bfloat16()(x.bfloat16(), t, context.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative_error(half.float(), expected) < 0.05


@pytest.mark.parametrize("changes", [{}, {"layers_per_block": 1, "block_out_channels": (32, 64, 32, 96)}])
@torch.no_grad()
def test_autoencoder_agrees_with_diffusers(changes):
    reference = make_autoencoder(**changes)
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in reference.config.items()}
    ours = load_ours(reference, autoencoder_config(config, HERE), lambda name: autoencoder_name(name, 4))
    generator = torch.Generator().manual_seed(6)
    image = torch.rand(2, 3, 48, 32, generator=generator) * 2 - 1
    latents = torch.randn(2, 4, 6, 4, generator=generator)
    assert relative_error(ours.encode(image), reference.encode(image).latent_dist.mean) < TOLERANCE
    assert relative_error(ours.decode(latents), reference.decode(latents).sample) < TOLERANCE


@torch.no_grad()
def test_text_encoder_agrees_with_ldmbert():
    reference = make_text_encoder()
    ours = load_ours(reference, text_encoder_config(reference.config.to_dict(), HERE), text_encoder_name)
    tokens = torch.randint(0, len(WORDS), (2, 77), generator=torch.Generator().manual_seed(7))
    assert relative_error(ours.transformer(tokens), reference(tokens)[0]) < TOLERANCE


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    make_pipeline().save_pretrained(path)
    return path


@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "vocab.txt"])
def test_tokens_agree_with_transformers(folder, tmp_path, vocabulary):
    model: Any = load_model(folder)
    if vocabulary == "vocab.txt":
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        model.cond_stage_model.load_vocabulary(tmp_path)
    prompts = [PROMPT, "", "spiral " * 100]
    expected = make_pipeline().tokenizer(prompts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert [encoding.ids for encoding in model.cond_stage_model.tokenizer.encode_batch(prompts)] == expected


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("tokenizer.json", "{", "cannot be read as a vocabulary"),
        ("vocab.txt", "a\nb\n", "cannot be read as a vocabulary"),  # no [SEP]
        ("vocab.txt", "\n".join([*WORDS, "surplus"]), f"{len(WORDS) + 1} words, the model {len(WORDS)}"),
    ],
)
def test_wrong_vocabularies_are_refused(folder, tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        load_model(folder).cond_stage_model.load_vocabulary(tmp_path)


@torch.no_grad()
def test_image_agrees_with_diffusers(folder):
    pipeline, model = make_pipeline(), load_model(folder)
    x_T = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(8))
    expected = pipeline(
        [PROMPT], num_inference_steps=5, guidance_scale=3.0, latents=x_T, output_type="pt", height=SIZE, width=SIZE
    ).images
    samples = DDIMSampler(model).run(
        x_T,
        SamplingSettings(steps=5, scale=3.0),
        conditioning=model.get_learned_conditioning([PROMPT]),
        unconditional=model.get_learned_conditioning([""]),
    )
    image = (model.decode_first_stage(samples) / 2 + 0.5).clamp(0, 1)
    assert image.std() > 0.05  # not a plain colour
    assert (image - expected).abs().max() < 1 / 255


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_those_that_diffusers_converts_from_compvis(folder):
    """The converters of diffusers take our names for CompVis's, and return the weights of the pipeline."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    pipeline, model = make_pipeline(), load_model(folder)
    state = model.state_dict()
    for converted, reference in (
        (convert_ldm_unet_checkpoint(dict(state), pipeline.unet.config), pipeline.unet),
        (convert_ldm_vae_checkpoint(dict(state), pipeline.vqvae.config), pipeline.vqvae),
    ):
        expected = reference.state_dict()
        assert converted.keys() == expected.keys()
        assert all(torch.equal(converted[name].reshape(expected[name].shape), expected[name]) for name in expected)


@torch.no_grad()
def test_bert_layers_are_those_that_diffusers_converts_from_compvis(folder):
    from diffusers.pipelines.stable_diffusion.convert_from_ckpt import convert_ldm_bert_checkpoint

    model: Any = load_model(folder)
    reference, transformer = make_pipeline().bert, model.cond_stage_model.transformer
    transformer.to_logits = nn.Linear(WIDTH, len(WORDS))
    converted = convert_ldm_bert_checkpoint(SimpleNamespace(transformer=transformer), reference.config).state_dict()
    expected = reference.state_dict()
    assert all(torch.equal(converted[name], expected[name]) for name in expected if "to_logits" not in name)


@pytest.fixture(scope="module")
def manifest() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of the 1.45 B model."""
    model = build_model(read_config(LARGE), str(LARGE))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "prefix, keys, parameters",
    [
        ("model.diffusion_model.", 686, 872_300_484),
        ("first_stage_model.", 248, 83_653_863),
        ("cond_stage_model.", 420, None),  # 422 with transformer.to_logits, which is not built
    ],
)
def test_large_model_has_as_many_keys_as_published(manifest, prefix, keys, parameters):
    part = [shape for name, shape in manifest.items() if name.startswith(prefix)]
    assert len(part) == keys
    assert parameters is None or sum(torch.Size(shape).numel() for shape in part) == parameters


@pytest.mark.parametrize(
    "name, shape",
    [
        ("model.diffusion_model.time_embed.2.bias", (1280,)),
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3)),
        ("model.diffusion_model.input_blocks.3.0.op.weight", (320, 320, 3, 3)),
        ("model.diffusion_model.input_blocks.4.0.skip_connection.weight", (640, 320, 1, 1)),
        ("model.diffusion_model.input_blocks.11.0.out_layers.3.weight", (1280, 1280, 3, 3)),
        ("model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj.weight", (10240, 1280)),
        ("model.diffusion_model.output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
        ("model.diffusion_model.output_blocks.5.2.conv.weight", (1280, 1280, 3, 3)),
        ("model.diffusion_model.output_blocks.8.1.transformer_blocks.0.attn2.to_k.weight", (640, 1280)),
        ("model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias", (320,)),
        ("model.diffusion_model.out.2.weight", (4, 320, 3, 3)),
        ("first_stage_model.encoder.down.2.block.0.nin_shortcut.weight", (512, 256, 1, 1)),
        ("first_stage_model.encoder.mid.attn_1.q.weight", (512, 512, 1, 1)),
        ("first_stage_model.decoder.up.3.upsample.conv.weight", (512, 512, 3, 3)),
        ("first_stage_model.decoder.up.0.block.2.conv2.weight", (128, 128, 3, 3)),
        ("first_stage_model.quant_conv.weight", (8, 8, 1, 1)),
        ("cond_stage_model.transformer.token_emb.weight", (30522, 1280)),
        ("cond_stage_model.transformer.pos_emb.emb.weight", (77, 1280)),
        ("cond_stage_model.transformer.attn_layers.layers.0.1.to_q.weight", (512, 1280)),
        ("cond_stage_model.transformer.attn_layers.layers.62.1.to_out.bias", (1280,)),
        ("cond_stage_model.transformer.attn_layers.layers.63.1.net.0.0.weight", (5120, 1280)),
        ("cond_stage_model.transformer.attn_layers.layers.63.0.weight", (1280,)),
        ("cond_stage_model.transformer.norm.weight", (1280,)),
    ],
)
def test_large_model_has_published_names_and_shapes(manifest, name, shape):
    assert manifest[name] == shape


def test_text_encoder_has_582_million_parameters_with_its_head(manifest):
    count = sum(torch.Size(shape).numel() for name, shape in manifest.items() if name.startswith("cond_stage_model."))
    head = 30_522 * 1280 + 30_522
    assert round((count + head) / 1e6) == 582


def test_norms_have_the_published_eps():
    model = build_model(read_config(LARGE), str(LARGE))
    for name, module in model.named_modules():
        if isinstance(module, nn.GroupNorm):
            in_unet = name.startswith("model.diffusion_model.")
            in_resblock = in_unet and (".in_layers." in name or ".out_layers." in name or ".out." in name)
            assert module.eps == (1e-5 if in_resblock else 1e-6), name
    assert any(isinstance(module, ResBlock) for module in model.modules())


def test_builtin_yaml_builds():
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS_DIR / "latent-diffusion" / "chladni.yaml"))
    node = node["model"]
    node["params"]["cond_stage_config"]["params"].update(vocab_size=10, vector_dim=64)  # training fills these in
    node["params"]["unet_config"]["params"]["layout"].update(
        size=32,
        shape_attributes=dict.fromkeys(NAMED_ATTRIBUTES, 2),
        colour_attributes=[3],
        variants=2,
        nearest=1.4,
        bend=0.04,
        knots=4,
    )
    assert build_model(node, "chladni.yaml").parameterization == "v"
