"""From the attributes of a composition to soft masks: which part of an image lies in which cell."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from ldm.modules.diffusionmodules.util import normal_parameter
from ldm.modules.grids import cell_centres

NAMED_ATTRIBUTES = ("pattern", "figure", "composition", "mood", "second", "blend")  # looked up by name
PLANE_REACH = 2.1  # half-width of the stored plane of a pattern; an unfolded image shows −1 to 1 of it
FIELD_GAIN = 5.0  # on stored fields, over the weights, so that they are learned as fast as the rest
BEND_KNOTS = 6  # a side, of the displacement by which a mood bends a pattern


class Shapes(nn.Module):
    """Renders attributes as `maps` soft masks that share each cell of the image among them.

    Each variant stores what looks the same wherever it stands as small maps: the `fields` of each pattern on a plane
    of its own, the fields of each figure, and the border between two patterns. A composition moves and folds the plane
    (as in `training.scenes.render`), a mood zooms and bends it, and learned matrices place the figures. A small
    network then turns the fields of each cell into masks. All attributes modulate it: they decide whether a pattern
    has bands, is lit, or gives way to a figure.

    Some attribute names are keys of the state dict of the built-in model and stay as they are: `places`, `foldings`,
    `repeats`, `share`.

    Args:
        attributes: number of values of each attribute by name: at least pattern, figure, composition, mood, second
            (pattern) and blend. Value 0 of figure, composition, second and blend means none.
        variants: number of shapes that the same attributes can have.
        size: cells of the image, a side.
        extent: cells of the plane of a pattern, a side.
        fields: number of fields of each pattern and each figure.
        width, cell_width: widths of the hidden layers for the whole image and for each cell.
        maps: number of masks.
    """

    # Sampling grids that training computes from the drawing code:
    foldings: Tensor  # [variants, compositions, size, size, 2], places in the plane; −1 and 1 are the image's edges
    repeats: Tensor  # [compositions, size, size, 2], places in the image of a figure, as of `grid_sample`

    def __init__(
        self,
        attributes: Mapping[str, int],
        variants: int,
        size: int,
        extent: int,
        fields: int,
        width: int,
        cell_width: int,
        maps: int,
    ) -> None:
        super().__init__()
        self.names, self.counts, self.size = list(attributes), list(attributes.values()), size
        patterns, figures, compositions = (attributes[name] for name in ("pattern", "figure", "composition"))
        self.patterns = normal_parameter(variants, patterns, fields, extent, extent, std=0.02)
        self.figures = normal_parameter(variants, figures, fields, size, size, std=0.02)
        self.borders = normal_parameter(variants, attributes["blend"], 1, size, size, std=0.02)
        self.bends = nn.Parameter(torch.zeros(variants, patterns, 2, BEND_KNOTS, BEND_KNOTS))
        self.places = nn.Parameter(torch.zeros(variants, figures, compositions, 2, 3))  # affine matrices
        self.zoom = nn.Parameter(torch.ones(attributes["mood"]))
        self.bend = normal_parameter(attributes["mood"], std=0.5)
        self.register_buffer("foldings", torch.zeros(variants, compositions, size, size, 2))
        self.register_buffer("repeats", torch.zeros(compositions, size, size, 2))
        self.embedding = normal_parameter(variants, sum(self.counts), width, std=0.5)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.cell = nn.Linear(3 * fields + 2, cell_width)  # + 2: border, distance from the middle
        self.modulation = nn.Linear(width, 2 * cell_width)
        self.share = nn.Linear(cell_width, maps)
        if not self.cell.weight.is_meta:
            nn.init.normal_(self.cell.weight)
            nn.init.normal_(self.modulation.weight, std=0.02)
            self.places.data[..., :2] = torch.eye(2)  # on the meta device this would import sympy, for a second

    def forward(self, values: Tensor, variant: Tensor) -> tuple[Tensor, Tensor]:
        """Render attribute `values` [N, attributes] of `variant` [N].

        Returns:
            masks [N, maps, size²], which sum to 1 in each cell, and the embedding of the attributes [N, width].
        """
        # all attributes share one table, in which each begins where the one before it ends
        first = torch.tensor([0, *self.counts[:-1]], device=values.device).cumsum(dim=0)
        h = self.embedding[variant[:, None], values + first].sum(dim=1)
        for layer in self.hidden:
            h = h + layer(h)
        cells = rearrange(self.fields(values, variant), "n c h w -> n (h w) c").to(h.dtype)
        scale, shift = self.modulation(F.silu(h))[:, None].chunk(2, dim=2)
        shares = self.share(F.silu((1 + scale) * self.cell(cells) + shift))
        return rearrange(shares.softmax(dim=2), "n c m -> n m c"), h

    def fields(self, values: Tensor, variant: Tensor) -> Tensor:
        """Return what lies in each cell, [N, 3 · fields + 2, size, size] float32; 0 where there is nothing.

        The channels are the fields of the pattern, of the second pattern and of the figure, the border between the two
        patterns, and the squared distance from the middle.
        """
        pattern, figure, composition, mood, second, blend = (
            values[:, self.names.index(name)] for name in NAMED_ATTRIBUTES
        )
        grid = self.foldings[variant, composition].float() * self.zoom[mood].float()[:, None, None, None]
        bend = self.bend[mood].float()[:, None, None, None]
        main = self._pattern(variant, pattern, grid, bend)
        other, drawn = torch.zeros_like(main), torch.zeros_like(main)
        border = main.new_zeros(len(main), 1, *main.shape[2:])
        if (rows := second > 0).any():
            other[rows] = self._pattern(variant[rows], second[rows] - 1, grid[rows], bend[rows])
            border[rows] = FIELD_GAIN * self.borders[variant[rows], blend[rows]].float()
        if (rows := figure > 0).any():
            drawn[rows] = self._figure(variant[rows], figure[rows], composition[rows])
        axis = cell_centres(self.size, main.device)
        distance = axis.square() + axis.square()[:, None]
        return torch.cat([main, other, drawn, border, distance.expand(border.shape)], dim=1)

    def _pattern(self, variant: Tensor, pattern: Tensor, grid: Tensor, bend: Tensor) -> Tensor:
        """Look up the fields [N, fields, size, size] of patterns [N] at `grid` [N, size, size, 2].

        The grid is displaced first, by the strength `bend` [N, 1, 1, 1].
        """
        bends = self.bends[variant, pattern].float()
        displacement = F.grid_sample(bends, grid / PLANE_REACH, padding_mode="border", align_corners=True)
        grid = grid + bend * rearrange(displacement, "n xy h w -> n h w xy")
        stored = self.patterns[variant, pattern].float()
        return FIELD_GAIN * F.grid_sample(stored, grid / PLANE_REACH, padding_mode="border", align_corners=False)

    def _figure(self, variant: Tensor, figure: Tensor, composition: Tensor) -> Tensor:
        """Look up the fields [N, fields, size, size] of figures [N], placed as each composition [N] needs it."""
        grid, matrix = self.repeats[composition].float(), self.places[variant, figure, composition].float()
        placed = einsum(F.pad(grid, (0, 1), value=1.0), matrix, "n h w i, n j i -> n h w j")
        stored = self.figures[variant, figure].float()
        return FIELD_GAIN * F.grid_sample(stored, placed, padding_mode="border", align_corners=False)
