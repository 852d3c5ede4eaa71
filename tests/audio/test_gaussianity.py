"""Measurements of latents against SciPy, and the verdict on them."""

import json

import numpy as np
import pytest
import torch

import config
from audio.__main__ import main
from audio.description import WORDS, describe, places_of
from audio.gaussianity import as_json, examine, is_gaussian, jarque_bera, listing, spatial_power, summary, verdict
from audio.provenance import note, read_latents, read_names, save_latents
from audio.qualities import UNHEARD, Heard
from audio.whitening import Whitening

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
    assert [verdict(examine(x)) for x in NOISE] == ["like noise"] * len(NOISE)


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


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 16, 16), (32, 16, 16), (16, 24, 24), (3, 64, 64)])
def test_noise_of_any_size_is_like_noise(shape):
    draws = np.random.default_rng(0).standard_normal((50, *shape))
    assert {verdict(examine(one)) for one in draws} == {"like noise"}


def test_a_small_fault_is_called_close():
    assert verdict(examine(np.repeat(NOISE[0][:2], 2, axis=0))).startswith("close to noise: channels correlate by 1")
    assert verdict(examine(NOISE[0] + 3)).startswith("not like noise: ")


def test_other_sizes():
    found = [examine(latent) for latent in NOISE[:2, :, :8, :12]]
    assert len(listing(found, ["", ""])) == 5  # a title, and two lines for each
    (power,) = [line for line in summary(found, ["", ""]) if line.startswith("power at 4")]
    assert not [line for line in summary(found, ["", ""]) if "8 cycles" in line] and len(power.split()) == 8


def test_the_summary_has_the_range_of_each_figure_and_names_the_worst():
    latents = np.concatenate([NOISE[:7], 30 * np.ones((1, 4, 32, 32)), NOISE[8:9] + 3, NOISE[9:12]])
    found, names = [examine(one) for one in latents], ["a.wav"] * len(latents)
    lines = summary(found, names)
    assert max(map(len, lines + listing(found, names))) <= 100 and len(lines) < 24
    (mean,) = [line.split() for line in lines if line.startswith("mean")]
    wanted = (0, np.median([x.mean() for x in latents]), min(x.mean() for x in latents), 30)
    np.testing.assert_allclose([float(word) for word in mean[1:]], wanted, atol=6e-4)
    assert "like noise: 10 of 12" in lines
    worst = [line.split(":")[0].strip() for line in lines if "not like noise" in line]
    assert worst == ["7 (a.wav)", "8 (a.wav)"]


def test_of_one_latent_there_is_no_range():
    title, *_, last = summary([examine(NOISE[0])], [""])
    assert title.split() == ["noise", "here"] and last == "like noise: 1 of 1"


def test_more_than_the_worst_are_counted():
    lines = summary([examine(NOISE[row] + 3) for row in range(8)], [""] * 8)
    assert lines[-1] == "and 3 more that are not" and sum("not like noise" in line for line in lines) == 5


# --- the program -----------------------------------------------------------------------------------------------------
def test_voices_are_judged_as_x_T(voices, tmp_path, capsys):
    """The z-scores are far from noise, their x_T is noise; --raw shows the former."""
    save_latents(tmp_path / "two.pt", read_latents(voices), None, ["en.wav", "it.wav"])
    assert main([str(tmp_path / "two.pt")]) == 0
    said = capsys.readouterr()
    assert "two.pt: 2 latents [4, 32, 32], 2 whitened by the built-in calibration" in said.out and not said.err
    assert "like noise: 2 of 2" in said.out and len(said.out.splitlines()) < 20
    assert main([str(tmp_path / "two.pt"), "--raw"]) == 0
    said = capsys.readouterr()
    assert "like noise: 0 of 2" in said.out and "(en.wav): not like noise" in said.out


def test_a_voice_is_described(voices, tmp_path, capsys):
    """One voice in a line and a chart, several in a line each with --verbose, noise not at all."""
    heard = [Heard(2.3, 221.0, 0.9), Heard(4.6, 95.0, 0.7)]
    both, one, three = read_latents(voices), tmp_path / "one.pt", tmp_path / "three.pt"
    save_latents(one, both[1:], None, ["it.wav"], heard[1:])
    noise = torch.from_numpy(NOISE[:1].astype(np.float32))
    save_latents(three, torch.cat([both, noise]), None, ["en.wav", "it.wav", ""], [*heard, UNHEARD])
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")
    places = places_of(whitening, both.numpy(), heard)
    assert main([str(one)]) == 0
    _, line, drawn = capsys.readouterr().out.rpartition(f"voice: {describe(places[1])}\n")
    assert line and len(drawn.splitlines()) == len(WORDS)
    for row, (low, high), place in zip(drawn.splitlines(), WORDS.values(), places[1].values(), strict=True):
        assert row.endswith(f" {place:.0f}") and len(row) < 80
        scale = row[row.index(low) + len(low) : row.rindex(high)].strip()
        assert abs(scale.index("o") / (len(scale) - 1) * 100 - place) <= 2.51
    assert main([str(three), "--verbose"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("voice: ") == 2 and all(f"voice: {describe(one)}" in said for one in places)
    assert main([str(one), "--raw"]) == 0 and "voice: " not in capsys.readouterr().out


def test_x_T_is_written_as_it_is_judged(voices, tmp_path, capsys):
    heard = [Heard(2.3, 221.0, 0.9), Heard(4.6, 95.0, 0.7)]
    save_latents(tmp_path / "two.pt", read_latents(voices), None, ["en.wav", "it.wav"], heard)
    assert main([str(tmp_path / "two.pt"), "--json", "--save_x_T", str(tmp_path / "x_T.pt")]) == 0
    about = json.loads(capsys.readouterr().out)
    x_T = read_latents(tmp_path / "x_T.pt").numpy()
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")
    np.testing.assert_array_equal(x_T, whitening.whiten(read_latents(voices).numpy(), heard=heard))
    found = [examine(one) for one in x_T]
    places = places_of(whitening, read_latents(voices).numpy(), heard)
    told = [{"qualities": one, "description": describe(one)} for one in places]
    rows = [row | more for row, more in zip(as_json(found, ["en.wav", "it.wav"]), told, strict=True)]
    assert about["latents"] == json.loads(json.dumps(rows)) and all(describe(one) for one in places)
    assert read_names(tmp_path / "x_T.pt", 2) == ["en.wav", "it.wav"]
    assert main([str(tmp_path / "x_T.pt"), "--verbose"]) == 0  # noise is used as it is
    said = capsys.readouterr().out
    assert "2 latents [4, 32, 32], like noise, used as they are" in said and "it.wav: like noise" in said


def test_noise_among_voices_stays_as_it_is(voices, tmp_path, capsys):
    mixed = torch.cat([read_latents(voices), torch.from_numpy(NOISE[:1]).float()])
    torch.save(mixed, tmp_path / "three.pt")
    assert main([str(tmp_path / "three.pt"), "--save_x_T", str(tmp_path / "x_T.pt")]) == 0
    assert "2 whitened by the built-in calibration, 1 used as they are" in capsys.readouterr().out
    assert torch.equal(read_latents(tmp_path / "x_T.pt")[2], mixed[2])


def test_latents_of_an_unknown_calibration_are_judged_as_they_are(tmp_path, capsys):
    torch.save(torch.from_numpy(np.concatenate([NOISE[:1], NOISE[1:2] + 3])).float(), tmp_path / "two.pt")
    note(tmp_path / "two.pt", "0123456789abcdef")
    assert main([str(tmp_path / "two.pt"), "--stats_dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "like noise: 1 of 2" in said.out and said.err.count("\n") == 1
    assert f"two.pt is not in {tmp_path}: its latents cannot be whitened; name its folder with --stats_dir" in said.err


@pytest.mark.parametrize(("more", "message"), [(["--raw"], "leave out --raw"), (["one.pt"], "name one")])
def test_x_T_of_what_is_none_is_not_written(tmp_path, more, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.pt").touch()
    with pytest.raises(SystemExit) as end:
        main(["one.pt", *more, "--save_x_T", "x_T.pt"])
    assert end.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "x_T.pt").exists()


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
