"""Measurements of latents against SciPy, and the verdict on them."""

import numpy as np
import pytest
import torch

from audio.__main__ import main
from audio.gaussianity import examine, is_gaussian, jarque_bera, report, spatial_power, verdict
from audio.provenance import note, read_latents

NOISE = np.random.default_rng(3).standard_normal((150, 4, 32, 32))


def test_jarque_bera_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for x in (NOISE[0], np.random.default_rng(1).uniform(size=500), np.random.default_rng(2).exponential(size=50)):
        wanted = stats.jarque_bera(x.ravel()).pvalue
        got = jarque_bera(x.size, stats.skew(x.ravel()), stats.kurtosis(x.ravel()) + 3)
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-300)


def test_figures_of_noise():
    np.testing.assert_allclose(spatial_power(NOISE), 1, atol=0.15)
    found = examine(NOISE[0])
    assert found.kurtosis == pytest.approx(3, abs=0.3) and found.radius == pytest.approx(1, abs=0.04)
    assert examine(2 * NOISE[0] + 1).p_normal == pytest.approx(found.p_normal)


@pytest.mark.parametrize("shape", [(4, 32, 32), (4, 8, 8), (8, 64, 48), (4, 1, 64)], ids=str)
def test_noise_is_gaussian(shape):
    noise = np.random.default_rng(7).standard_normal((400, *shape), dtype=np.float32)
    assert is_gaussian(noise).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.2,
        lambda x: x * 1.2,
        lambda x: x * 0.8,
        lambda x: (x + np.roll(x, 1, -1)) / 2**0.5,
        lambda x: (x + np.roll(x, 1, -2)) / 2**0.5,
        lambda x: x * 0,
    ],
    ids=["mean", "wide", "narrow", "blurred sideways", "blurred downwards", "zero"],
)
def test_is_gaussian_refuses(change):
    assert not is_gaussian(change(NOISE[:100])).any()


def test_noise_is_healthy():
    assert [verdict(examine(x)) for x in NOISE] == ["like noise: it is used as it is"] * len(NOISE)


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (NOISE[0] * 1.3, "1.3"),
        (NOISE[0] + 0.5, "the mean is 0.5"),
        (np.repeat(NOISE[0][:, :, :16], 2, axis=2), "neighbours correlate by 0."),
        (np.repeat(NOISE[0][:1], 4, axis=0), "channels correlate by 1.00"),
        (np.random.default_rng(4).uniform(-(3**0.5), 3**0.5, (4, 32, 32)), "elements are not normal"),
        (np.zeros((4, 32, 32)), "0.00 times the norm"),
        (NOISE[0] + 3, "times the power of noise at frequency 0"),
    ],
)
def test_what_is_wrong_is_said(latent, words):
    assert words in verdict(examine(latent))


def test_other_sizes():
    assert len(report(NOISE[:2, :, :8, :12])) == 6  # a title, two lines for each, and how many are left alone


def test_report_fits_a_terminal_and_names_the_worst():
    latents = np.concatenate([NOISE[:7], 30 * np.ones((1, 4, 32, 32)), NOISE[8:9] + 3])
    lines = report(latents)
    assert max(map(len, lines)) <= 100
    (worst,) = [line for line in lines if line.startswith("farthest from noise")]
    assert ": 7 (9.22e5), 8 (" in worst
    assert "7 of 9 are used as they are" in "\n".join(lines)


@pytest.mark.slow
def test_as_a_program(tmp_path, capsys):
    torch.save(torch.from_numpy(np.concatenate([NOISE[:1], NOISE[1:2] + 3])).float(), tmp_path / "two.pt")
    assert main([str(tmp_path / "two.pt")]) == 0
    said = capsys.readouterr()
    assert "1 of 2 are used as they are" in said.out and "does not say which calibration" in said.err


@pytest.mark.parametrize(
    "content",
    [torch.zeros(3), torch.full((1, 4, 32, 32), torch.nan), torch.zeros(0, 4, 32, 32), {"a": 1}, b"no tensor"],
)
def test_what_is_no_latents_file_is_refused(content, tmp_path):
    path = tmp_path / "wrong.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match="wrong.pt") as caught:
        main([str(path)])
    assert "\n" not in str(caught.value)


def test_a_file_that_went_away_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_latents(tmp_path / "gone.pt")


def test_latents_that_say_what_made_them_are_said_to(tmp_path, capsys):
    torch.save(torch.from_numpy(NOISE[:1]).float(), tmp_path / "one.pt")
    note(tmp_path / "one.pt", "0123456789abcdef")
    assert main([str(tmp_path / "one.pt")]) == 0
    said = capsys.readouterr()
    assert "made by the calibration whose mean and std have the sha256 0123456789..." in said.out and not said.err
