"""The settings of one image: one definition for the API, the command line and JSON."""

import dataclasses
import json

import pytest

import config
from painting.image_spec import ALLOWED, FIELDS, ImageSpec, defaults_beside
from painting.options import build_parser, parse_options, parse_request
from painting.plan import plan


def test_a_prompt_is_all_that_is_needed():
    spec = ImageSpec("a golden spiral")
    assert (spec.steps, spec.scale, spec.sampler, spec.parts) == (20, 2.5, "dpmpp", ())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1}, {"seed": 2**63}, {"steps": 0}, {"steps": 1001}, {"scale": float("nan")}, {"eta": 1.5},
        {"height": 0}, {"width": 4096}, {"height": 100.5}, {"steps": 2.0},
        {"sampler": "nonsense"}, {"x_T": "pink"}, {"precision": "int8"},
        {"voice_strength": -0.1}, {"layout_strength": 2}, {"guidance_interval": (0.8, 0.2)},
        {"guidance_interval": (0, 3)}, {"subject": -1}, {"batch_index": 1}, {"batch_size": 0},
        {"blend": ((0, 0.5), (0, 0.4))}, {"blend": ((-1, 1.0),)}, {"blend": ((0, 2.0), (0, -1.0))},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes)).split('_')[0]}|batch"):
        ImageSpec("x", **changes)


def test_json_gives_the_same_spec_back():
    spec = ImageSpec(
        "x", seed=7, blend=((0, 0.25), (3, 0.75)), guidance_interval=(0.1, 0.9), batch_size=4, batch_index=3
    )
    assert ImageSpec.from_json(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_images_of_early_versions_lack_fields_that_were_added_later():
    values = json.loads(json.dumps(dataclasses.asdict(ImageSpec("x"))))
    for name in ("batch_size", "batch_index", "layout_strength", "blend", "guidance_rescale", "reading"):
        del values[name]
    assert ImageSpec.from_json(values) == ImageSpec("x")
    del values["sampler"]  # which they had: another default would make another image without a word
    with pytest.raises(ValueError, match="the fields"):
        ImageSpec.from_json(values)


def test_the_command_line_has_the_defaults_ranges_and_choices_of_the_fields(capsys):
    args, names = parse_options(None, []), {"height": "H", "width": "W"}
    own = {"precision", "guidance_rescale", "batch_size", "reading"}  # they depend on machine, model and memory
    for name in ALLOWED.keys() - own - {"guidance_interval"}:
        option = names.get(name, name)
        assert getattr(args, option) == config.BUILTIN_SAMPLING.get(name, FIELDS[name].default)
        wrong = "none_of_them" if isinstance(ALLOWED[name][0], str) else str(ALLOWED[name][1] + 1)
        with pytest.raises(SystemExit):
            parse_options(None, [f"--{option}", wrong])
        assert f"argument --{option}" in capsys.readouterr().err


def test_a_bare_command_line_plans_the_default_spec():
    import torch

    args = parse_options(None, ["--precision", "full"])
    (spec,) = plan(args, [], torch.device("cpu"))
    assert spec == ImageSpec(guidance_rescale=1.0, reading="near", **config.BUILTIN_SAMPLING)


OWN = {**config.BUILTIN_SAMPLING, "guidance_rescale": 1.0}
EVEN = {"guidance_rescale": 1.0}


@pytest.mark.parametrize(
    ("given", "rest"),
    [
        ({}, OWN),
        ({"steps": 12}, {name: OWN[name] for name in OWN if name != "steps"}),
        ({"steps": 13}, EVEN),
        ({"sampler": "ddim"}, EVEN),
        ({"sampler": "few", "steps": 30}, {"guidance_interval": (0.3, 0.9), "guidance_rescale": 1.0}),
        ({"guidance_interval": (0.0, 1.0)}, {name: OWN[name] for name in OWN if name != "guidance_interval"}),
        ({"guidance_rescale": 0.5}, config.BUILTIN_SAMPLING),
    ],
)
def test_the_sampler_for_few_steps_gives_way(given, rest):
    assert defaults_beside(given, OWN) == rest
    pipeline = {"sampler": "euler", "steps": 2, "scale": 0.0}  # where a number of steps keeps the sampler
    assert defaults_beside(given, pipeline) == {name: pipeline[name] for name in pipeline if name not in given}


def test_the_command_line_has_the_sampler_that_fits_the_steps():
    def chosen(*words: str) -> tuple[str, int, tuple[float, ...]]:
        args = parse_options(None, list(words))
        return args.sampler, args.steps, tuple(args.guidance_interval)

    assert chosen() == ("few", 4, (0.3, 0.9))
    assert chosen("--steps=2", "--guidance_interval", "0", "1") == ("few", 2, (0.0, 1.0))
    assert chosen("--steps=20") == ("dpmpp", 20, (0.0, 1.0))
    assert chosen("--plms") == ("plms", 20, (0.0, 1.0))
    assert chosen(f"--ckpt={config.BUILTIN_MODEL_WEIGHTS}") == ("few", 4, (0.3, 0.9))
    assert chosen(f"--ckpt={__file__}") == ("dpmpp", 20, (0.0, 1.0))
    start = parse_options(None, ["--standby", "--scale=3"])
    found = [parse_request(words, start) for words in (["--steps=30"], [])]
    assert [(one.sampler, one.steps, tuple(one.guidance_interval)) for one in found] == [
        ("dpmpp", 30, (0.0, 1.0)),
        ("few", 4, (0.3, 0.9)),
    ]


def test_older_names_of_options_hold():
    assert parse_options(None, ["--ddim_steps", "7"]).steps == 7
    args = parse_options(None, ["--sampler", "ddim", "--ddim_eta", "0.5"])
    assert args.eta == 0.5
    assert "--ddim" not in build_parser(None).format_help()
