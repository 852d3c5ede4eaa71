"""The pipelines of diffusers that can paint: one row a family, with the layout of `latents=` and who draws later noise.

Every row was measured on tiny pipelines of diffusers 0.42.1: with x_T equal to what the pipeline's own generator draws,
the image is the same bit for bit (tests/painting/test_pipelines.py). A pipeline without a row is refused. This
module imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, int, int]  # [C, h, w]


class Layout:
    """How x_T [B, C, h, w] becomes `latents=`: here as it is, one latent pixel for f×f pixels of the image.

    `latents` always returns a contiguous tensor, because other strides are rounded differently in the network.
    """

    cells = 1  # an image's sides are multiples of so many latent pixels; 0: of as many as one has pixels

    def shape(self, channels: int, factor: int, height: int, width: int) -> Shape:
        """Return the shape [C, h, w] of x_T for an image of `height` × `width` pixels."""
        return channels, height // factor, width // factor

    def latents(self, x_T: "Tensor") -> "Tensor":
        """Lay x_T [B, C, h, w] out for the pipeline."""
        return x_T.contiguous()

    def x_T(self, latents: "Tensor", shape: Shape) -> "Tensor":
        """Undo `latents`: return [B, C, h, w] of a pipeline's latents."""
        return latents.reshape(-1, *shape)

    def multiple(self, factor: int) -> int:
        """Return the number of pixels of which the sides of an image are multiples."""
        return factor * (self.cells or factor)


class Even(Layout):
    """Latents with even sides, as networks need that take 2×2 latent pixels for one token."""

    cells = 2


class Packed(Even):
    """Tokens [B, h/2 · w/2, 4C] of 2×2 latent pixels: channel, then row, then column, as in FLUX."""

    def latents(self, x_T: "Tensor") -> "Tensor":
        b, c, h, w = x_T.shape
        tokens = x_T.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return tokens.reshape(b, h // 2 * (w // 2), 4 * c).contiguous()

    def x_T(self, latents: "Tensor", shape: Shape) -> "Tensor":
        c, h, w = shape
        tokens = latents.reshape(-1, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tokens.reshape(-1, c, h, w)


class PackedHalves(Packed):
    """Tokens as in FLUX, of a pipeline whose factor is that of a token, as in Bria."""

    cells = 1

    def shape(self, channels: int, factor: int, height: int, width: int) -> Shape:
        return channels, 2 * (height // factor), 2 * (width // factor)


class Patched(Layout):
    """Latents [B, C, H/2f, W/2f] whose channels hold 2×2 pixels of the autoencoder's, as in FLUX 2."""

    cells = 2

    def shape(self, channels: int, factor: int, height: int, width: int) -> Shape:
        return channels, height // (2 * factor), width // (2 * factor)


class ChannelsLast(Layout):
    """Latents [B, 1, h, w, C] of Kandinsky 5."""

    def latents(self, x_T: "Tensor") -> "Tensor":
        return x_T.permute(0, 2, 3, 1)[:, None].contiguous()

    def x_T(self, latents: "Tensor", shape: Shape) -> "Tensor":
        return latents[:, 0].permute(0, 3, 1, 2)


class Squared(Layout):
    """Latents of Kandinsky 2 and 3: f·ceil(H / f²) cells for H pixels; the image is rounded up as well."""

    cells = 0  # f

    def shape(self, channels: int, factor: int, height: int, width: int) -> Shape:
        return channels, factor * ceil(height / factor**2), factor * ceil(width / factor**2)


class Coarse(Layout):
    """Latents of the prior of Stable Cascade: ceil(H / 42.67) cells for H pixels."""

    pixels = 42.67
    cells = 4

    def shape(self, channels: int, factor: int, height: int, width: int) -> Shape:
        return channels, ceil(height / self.pixels), ceil(width / self.pixels)


@dataclass(frozen=True)
class Family:
    """One class of pipelines.

    Attributes:
        text: name, for people.
        pipeline: class in diffusers.
        channels: where the channels of the network's input are, PART.KEY of the pipeline's configs, or a number.
        layout: how x_T becomes `latents=`.
        packed: how many of these channels hold one channel of x_T.
        factor: attribute of the pipeline with the pixels of a latent pixel and side, or a number.
        of_tokens: that attribute counts 2×2 latent pixels of the autoencoder as one.
        sizes: the only sizes (height, width) in pixels; empty: any.
        same_area: images have the area for which the model was made, whatever is asked for.
        loudness: factor by which the pipeline multiplies its own draw, but not noise that it is given.
        keeps_float32: it starts in float32 whatever the format of its weights is.
        flow: a flow model: a sampler that adds noise forgets x_T in its first step.
        seeds: it hands its generator to the sampler; else later noise comes from PyTorch's global generator.
        one_guided: with guidance it paints one image a call.
        samplers: keys of `SCHEDULERS` that it can use beside its own scheduler.
        steps: default; `least_steps`: fewer fail in the pipeline.
        scale: default; `unguided`: the scale that means no guidance.
        guidance: argument for the scale; "": it has none.
        negative: it takes a negative prompt; `no_negative`: what it needs in place of none.
        takes: further settings of `ImageSpec` that it takes.
        arguments: further arguments of each call; `other_steps`: where the steps are not the default.
        side: default side of images in pixels; 0: as the network's config says.
        stage: of a prior and a decoder, the one that starts from x_T, an attribute of the pipeline.
        modules: modules of diffusers that its model_index.json may name.
        tokens: tokens of a prompt that it reads; 0: as many as the tokenizer says.
    """

    text: str
    pipeline: str
    channels: str
    layout: Layout = Layout()
    packed: int = 1
    factor: str = "vae_scale_factor"
    of_tokens: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    same_area: bool = False
    loudness: float = 1.0
    keeps_float32: bool = False
    flow: bool = True
    seeds: bool = False
    one_guided: bool = False
    samplers: tuple[str, ...] = ()
    steps: int = 50
    least_steps: int = 1
    scale: float = 5.0
    unguided: float = 1.0
    guidance: str = "guidance_scale"
    negative: bool = True
    no_negative: str | None = None
    takes: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    other_steps: Mapping[str, Any] = field(default_factory=dict)
    side: int = 0
    stage: str = ""
    modules: tuple[str, ...] = ()
    tokens: int = 0

    @property
    def network(self) -> str:
        """Name the part that removes noise."""
        part = self.channels.partition(".")[0]
        return part if not part.isdigit() else "transformer" if self.flow else "unet"

    def size_problem(self, factor: int, height: int, width: int) -> str:
        """Say why there are no images of this size in pixels, or return "".

        Args:
            factor: pixels of a latent pixel and side.
        """
        multiple = self.layout.multiple(factor)
        for name, side in (("height", height), ("width", width)):
            if side % multiple:
                below = side - side % multiple
                nearest = f"{below} or {below + multiple}" if below else str(multiple)
                return f"{name} {side}: {self.text} needs multiples of {multiple}, for instance {nearest}"
        if self.sizes and (height, width) not in self.sizes:
            sizes = ", ".join(f"{h}×{w}" for h, w in self.sizes)
            return f"{height}×{width}: {self.text} has images of {sizes} (height×width) only"
        return ""


UNET, TRANSFORMER = "unet.in_channels", "transformer.in_channels"
DIFFUSION = ("ddim", "plms", "dpmpp", "dpmpp_sde", "unipc", "deis", "euler", "euler_a", "heun", "lms", "kdpm2",
    "kdpm2_a", "ddpm", "lcm", "tcd")  # fmt: skip
EXPONENTIAL = ("ddim", "dpmpp", "dpmpp_sde", "unipc", "deis", "euler", "euler_a", "ddpm")
PLAIN: dict[str, Any] = {"flow": False, "seeds": True}
UNBINNED = {"use_resolution_binning": False}
KANDINSKY_5_SIZES = (
    (1024, 1024), (640, 1408), (1408, 640), (768, 1280), (1280, 768), (896, 1152), (1152, 896),
)  # fmt: skip

_ROWS = (
    # --- noise prediction on a U-Net ----------------------------------------------------------------------------------
    Family("Stable Diffusion 1 and 2", "StableDiffusionPipeline", UNET, **PLAIN, samplers=DIFFUSION, scale=7.5,
        takes=("eta", "guidance_rescale"), modules=("stable_diffusion",)),
    Family("Stable Diffusion XL", "StableDiffusionXLPipeline", UNET, **PLAIN, samplers=DIFFUSION,
        takes=("eta", "guidance_rescale")),
    Family("Latent Consistency Model", "LatentConsistencyModelPipeline", UNET, **PLAIN, samplers=("lcm",), steps=4,
        scale=8.5, negative=False, modules=("stable_diffusion",)),
    Family("Kolors", "KolorsPipeline", UNET, **PLAIN, samplers=DIFFUSION, takes=("eta",), modules=("kolors",),
        tokens=256),
    Family("Kandinsky 2.2", "KandinskyV22CombinedPipeline", "4", Squared(), factor="decoder_pipe.movq_scale_factor",
        **PLAIN, samplers=("ddim", "ddpm"), scale=4.0, side=512, stage="decoder_pipe"),
    Family("Kandinsky 3", "Kandinsky3Pipeline", "4", Squared(), factor="8", **PLAIN, samplers=("ddim", "ddpm"),
        steps=25, scale=3.0, side=1024, tokens=128),
    Family("Stable Cascade", "StableCascadeCombinedPipeline", "prior_prior.in_channels", Coarse(), factor="32",
        **PLAIN, steps=20, scale=4.0, side=1024, stage="prior_pipe", modules=("stable_cascade", "wuerstchen")),
    # --- noise prediction on a transformer ---------------------------------------------------------------------------
    Family("PixArt-Sigma", "PixArtSigmaPipeline", TRANSFORMER, Even(), **PLAIN, samplers=EXPONENTIAL, steps=20,
        scale=4.5, arguments=UNBINNED, tokens=300),
    Family("PixArt-alpha", "PixArtAlphaPipeline", TRANSFORMER, Even(), **PLAIN, samplers=EXPONENTIAL, steps=20,
        least_steps=2, scale=4.5, arguments=UNBINNED, tokens=120),
    Family("Hunyuan-DiT", "HunyuanDiTPipeline", TRANSFORMER, Even(), **PLAIN, samplers=("ddim", "ddpm", "dpmpp"),
        takes=("eta", "guidance_rescale"), arguments=UNBINNED, modules=("stable_diffusion",)),
    Family("CogView 3 Plus", "CogView3PlusPipeline", TRANSFORMER, Even(), **PLAIN, side=1024, tokens=224),
    # --- flow --------------------------------------------------------------------------------------------------------
    Family("Stable Diffusion 3", "StableDiffusion3Pipeline", TRANSFORMER, Even(), samplers=("euler", "heun", "dpmpp",
        "unipc", "lcm"), steps=28, scale=7.0, tokens=256),
    Family("FLUX.1", "FluxPipeline", TRANSFORMER, Packed(), packed=4, samplers=("euler",), steps=28, scale=3.5,
        unguided=0.0, negative=False, side=1024, tokens=512),
    Family("Chroma", "ChromaPipeline", TRANSFORMER, Packed(), packed=4, samplers=("euler",), steps=35, side=1024,
        tokens=512),
    Family("FLUX.2", "Flux2Pipeline", TRANSFORMER, Patched(), samplers=("euler",), scale=4.0, unguided=0.0,
        negative=False, side=1024, tokens=512),
    Family("FLUX.2 klein", "Flux2KleinPipeline", TRANSFORMER, Patched(), samplers=("euler",), scale=4.0,
        negative=False, side=1024, tokens=512),
    Family("Qwen-Image", "QwenImagePipeline", TRANSFORMER, Packed(), packed=4, samplers=("euler",), scale=4.0,
        guidance="true_cfg_scale", no_negative=" ", side=1024, tokens=512),
    Family("Z-Image", "ZImagePipeline", TRANSFORMER, Even(), keeps_float32=True, samplers=("euler",), unguided=0.0,
        side=1024, tokens=512),
    Family("Lumina", "LuminaPipeline", TRANSFORMER, Even(), samplers=("euler",), steps=30, scale=4.0, side=1024,
        tokens=256),
    Family("Lumina 2", "Lumina2Pipeline", TRANSFORMER, Even(), samplers=("euler",), steps=30, scale=4.0, side=1024,
        tokens=256),
    Family("AuraFlow", "AuraFlowPipeline", TRANSFORMER, Even(), samplers=("euler",), scale=3.5, side=1024, tokens=256),
    Family("Sana", "SanaPipeline", TRANSFORMER, keeps_float32=True, seeds=True, samplers=("euler", "dpmpp", "unipc"),
        steps=20, scale=4.5, arguments=UNBINNED, side=1024, tokens=300),
    Family("Sana-Sprint", "SanaSprintPipeline", TRANSFORMER, keeps_float32=True, seeds=True, steps=2, least_steps=2,
        scale=4.5, negative=False, arguments=UNBINNED, other_steps={"intermediate_timesteps": None}, side=1024,
        tokens=300),
    Family("CogView 4", "CogView4Pipeline", TRANSFORMER, Even(), keeps_float32=True, samplers=("euler",), side=1024,
        tokens=1024),
    Family("HunyuanImage 2.1", "HunyuanImagePipeline", TRANSFORMER, Even(), samplers=("euler",), scale=3.25,
        guidance="distilled_guidance_scale", side=2048),
    Family("HiDream", "HiDreamImagePipeline", TRANSFORMER, Even(), same_area=True, samplers=("euler",), side=1024,
        tokens=128),
    Family("Kandinsky 5", "Kandinsky5T2IPipeline", "transformer.in_visual_dim", ChannelsLast(),
        factor="vae_scale_factor_spatial", sizes=KANDINSKY_5_SIZES, samplers=("euler",), scale=3.5, side=1024,
        tokens=512),
    Family("Bria", "BriaPipeline", TRANSFORMER, PackedHalves(), packed=4, of_tokens=True, samplers=("euler",),
        steps=30, side=1024, tokens=128),
    Family("Ovis-Image", "OvisImagePipeline", TRANSFORMER, Packed(), packed=4, samplers=("euler",), side=1024,
        tokens=256),
    Family("PRX", "PRXPipeline", TRANSFORMER, Even(), one_guided=True, samplers=("euler",), steps=28, scale=4.0,
        arguments=UNBINNED, side=512),
    Family("PRX in pixels", "PRXPixelPipeline", TRANSFORMER, factor="1", loudness=2.0, one_guided=True,
        samplers=("euler",), steps=28, scale=4.0, arguments=UNBINNED, side=1024),
    Family("Krea 2", "Krea2Pipeline", TRANSFORMER, Packed(), packed=4, samplers=("euler",), steps=28, scale=4.5,
        unguided=0.0, side=1024, tokens=512),
    Family("ERNIE-Image", "ErnieImagePipeline", TRANSFORMER, of_tokens=True, samplers=("euler",), scale=4.0,
        side=1024),
    Family("LongCat-Image", "LongCatImagePipeline", "16", Packed(), samplers=("euler",), scale=4.5, side=1024,
        arguments={"enable_prompt_rewrite": False}),
    Family("Nucleus-Image", "NucleusMoEImagePipeline", TRANSFORMER, Packed(), packed=4, samplers=("euler",),
        scale=4.0, no_negative=" ", side=1024),
)  # fmt: skip
FAMILIES = {family.pipeline: family for family in _ROWS}

# classes without a row, and why
NOT_INSTALLED = "which this program does not install"
APART = "it is one of two parts that are saved apart; models/README.md says how to save both as one folder"
REFUSED = {
    "OmniGenPipeline": f"it needs the package torchvision, {NOT_INSTALLED}",
    "Cosmos2TextToImagePipeline": f"it needs the packages torchvision and cosmos_guardrail, {NOT_INSTALLED}",
    "GlmImagePipeline": "a language model drafts its images by chance before the noise comes in",
    "KandinskyV22Pipeline": APART,
    "KandinskyV22PriorPipeline": APART,
    "StableCascadePriorPipeline": APART,
    "StableCascadeDecoderPipeline": APART,
}


def family_of(name: object, whose: object) -> Family:
    """Return the row of a class of pipelines.

    Args:
        name: the class.
        whose: what is of this class, for the message.

    Raises:
        ValueError: there is no such row.
    """
    if family := FAMILIES.get(str(name)):
        return family
    if reason := REFUSED.get(str(name)):
        raise ValueError(f"{whose} is a {name}, which cannot be used here: {reason}")
    known = ", ".join(row.text for row in FAMILIES.values())
    raise ValueError(f"{whose} is a {name!r}, a pipeline that this program does not know; it knows {known}")
