"""Statistics against NumPy, and files that must be refused."""

import importlib
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import config
from audio import calibration, plots
from audio.calibration import STD_FLOOR_DB, Calibration, calibrate, mean_and_std, voice_latents
from audio.features import AudioError, extract
from audio.files import sha256_of
from audio.mel import mel_edges
from audio.npy import ChosenRows, NpyReader, load_array
from audio.provenance import sidecar_names, statistics_sha256
from audio.recipe import Recipe
from audio.row_tables import missing_share, read_rows
from audio.whitening import Whitening

BUILTIN = config.BUILTIN_CALIBRATION_DIR


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Make 60 spectrograms in dB with smooth rows; the last 100 elements never vary."""
    random = np.random.default_rng(0)
    spectrograms = -40 + 3 * np.cumsum(random.standard_normal((60, 64, 64)), axis=2)
    flat = np.clip(spectrograms, -80, 0).reshape(60, 4096).astype(np.float32)
    flat[:, -100:] = -80
    return flat


@pytest.mark.parametrize("rows", [1, 2, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("offset", [0, -80, 1e6])
def test_mean_and_std_equal_numpy(rows, offset):
    data = offset + np.random.default_rng(rows).standard_normal((rows, 5)) * [0, 1e-3, 1, 10, 100]
    mean, std = mean_and_std(data)
    np.testing.assert_allclose(mean, data.mean(axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(std, data.std(axis=0), rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def made(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "v.npy", vectors)
    prior = Whitening.load(BUILTIN / "whitening.npz")
    return folder, calibrate(folder / "v.npy", folder / "z.npy", folder / "stats", prior=prior)[1]


def test_calibrate(made, vectors):
    folder, report = made
    mean, std, z = (np.load(folder / p, allow_pickle=False) for p in ("stats/mean.npy", "stats/std.npy", "z.npy"))
    wide = np.asarray(vectors, np.float64)
    floored = np.maximum(wide.std(axis=0), STD_FLOOR_DB)
    assert {a.dtype for a in (mean, std, z)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(mean, wide.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(std, floored, atol=1e-6)
    np.testing.assert_allclose(z, (wide - wide.mean(axis=0)) / floored, atol=1e-5)
    assert report.recordings == 60 and report.floored == (wide.std(axis=0) < STD_FLOOR_DB).sum() >= 100
    assert (report.z_mean, report.z_std) == (pytest.approx(z.mean(), abs=1e-6), pytest.approx(z.std(), abs=1e-6))
    assert report.z_largest == pytest.approx(np.abs(z).max())
    assert report.z_kurtosis == pytest.approx(((z - z.mean()) ** 4).mean() / z.var() ** 2, rel=1e-4)
    spectrograms = z.reshape(-1, 64, 64)
    neighbours = np.corrcoef(spectrograms[..., :-1].ravel(), spectrograms[..., 1:].ravel())[0, 1]
    assert report.z_neighbour == pytest.approx(neighbours, abs=0.02)


def test_few_recordings_are_mixed_with_the_builtin_calibration(made):
    folder, report = made
    own, builtin = (Whitening.load(p / "whitening.npz") for p in (folder / "stats", BUILTIN))
    assert report.own_share == pytest.approx(60 / 110) and report.axes == len(builtin.scales)
    related = np.linalg.norm(own.components.astype(float) @ builtin.components[0].astype(float))
    assert 0.5 < related <= 1.001, "the first axis of the built-in calibration is among the axes"
    np.testing.assert_array_equal(own.mean_db, np.load(folder / "stats" / "mean.npy"))


def test_z_stays_bounded_for_any_recording(made):
    """The worst case: -80 dB in the whole calibration, 0 dB live."""
    folder, _ = made
    own = Calibration.load(folder / "stats")
    assert np.abs(own.z_score(np.stack([np.zeros(4096), np.full(4096, -80.0)]))).max() <= 80 / STD_FLOOR_DB


def test_describes_itself(made):
    folder, _ = made
    about = json.loads((folder / "stats" / "calibration.json").read_text())
    assert about["recipe"] == Recipe().to_json()
    assert set(about["sha256"]) == {"mean.npy", "std.npy", "whitening.npz"}
    for name, digest in about["sha256"].items():
        assert sha256_of(folder / "stats" / name) == digest


def test_builtin_calibration():
    """It belongs to the recipe in config.py, and its three files belong together; the embedding belongs to all."""
    builtin = Calibration.load(BUILTIN, config.RECIPE)
    fitted = Whitening.load(BUILTIN / "whitening.npz")
    np.testing.assert_array_equal(fitted.mean_db, builtin.mean_db)
    np.testing.assert_array_equal(fitted.std_db, builtin.std_db)
    assert fitted.components.shape == (256, 4096)
    sizes = {path.name: path.stat().st_size for path in BUILTIN.iterdir()}
    network = sizes.pop("embedding.npz")
    assert sum(sizes.values()) < 2 << 20 and network < 1.3e6, (sizes, network)
    about = json.loads((BUILTIN / "calibration.json").read_text())
    for name, digest in about["sha256"].items():
        assert sha256_of(BUILTIN / name) == digest


def test_voice_latents_of_a_file_and_of_its_samples():
    recording = config.EXAMPLES_DIR / "voice_it.wav"
    voice = voice_latents(recording, BUILTIN)
    builtin = Calibration.load(BUILTIN)
    assert voice.latents.shape == (1, 4, 32, 32) and voice.latents.dtype == np.float32
    np.testing.assert_array_equal(voice.latents.ravel(), builtin.z_score(extract(recording).vector))
    assert voice.statistics == statistics_sha256(builtin.mean_db, builtin.std_db)
    assert voice.beyond_hz is None and voice.info.decoder == "libsndfile"
    samples, rate = soundfile.read(recording)
    again = voice_latents(samples, BUILTIN, sample_rate=rate)
    np.testing.assert_array_equal(again.latents, voice.latents)
    assert again.info.seconds == voice.info.seconds


def test_voice_latents_name_the_file_that_is_none(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(AudioError, match="empty.wav: the file is empty"):
        voice_latents(tmp_path / "empty.wav", BUILTIN)
    with pytest.raises(AudioError, match="^the recording is silent"):
        voice_latents(np.zeros(8000), BUILTIN, sample_rate=8000)
    with pytest.raises(FileNotFoundError):
        voice_latents(tmp_path / "none.wav", BUILTIN)


@pytest.fixture
def stats(made, tmp_path):
    """Copy a calibration, so that a test can spoil it."""
    for path in (made[0] / "stats").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("parameter", "value"), [("n_mels", 128), ("hop_length", 256), ("sample_rate", 16_000), ("top_db", 60.0)]
)
def test_another_recipe_is_refused_by_name(stats, parameter, value):
    with pytest.raises(ValueError, match=f"made with {parameter} .* now says {value}"):
        Calibration.load(stats, Recipe(**{parameter: value}))


def test_mixed_parts_are_refused(stats):
    np.save(stats / "mean.npy", np.zeros(4096, np.float32))
    with pytest.raises(ValueError, match="mean.npy is not the file"):
        Calibration.load(stats)
    (stats / "calibration.json").unlink()  # statistics from elsewhere
    assert (Calibration.load(stats).mean_db == 0).all()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": 3}', "\x00\xff"])
def test_broken_description_is_refused(stats, text):
    (stats / "calibration.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="calibration.json"):
        Calibration.load(stats)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_std_must_be_positive(stats, bad):
    (stats / "calibration.json").unlink()
    np.save(stats / "std.npy", np.full(4096, bad))
    with pytest.raises(ValueError, match="above 0"):
        Calibration.load(stats)


BAD_ARRAYS = {
    "object": (np.array([{}] * 4096, dtype=object), "not a .npy file"),
    "width": (np.zeros((3, 4095), np.float32), r"\(3, 4095\); \(N, 4096\)"),
    "vector": (np.zeros(4096, np.float32), r"\(4096,\)"),
    "integers": (np.zeros((3, 4096), np.int16), "int16"),
    "no rows": (np.zeros((0, 4096), np.float32), "empty"),
    "nan": (np.full((3, 4096), np.nan, np.float32), "NaN"),
    "infinite": (np.full((3, 4096), -np.inf, np.float32), "infinity"),
}


@pytest.mark.parametrize(("array", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        load_array(tmp_path / "a.npy", (None, 4096))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04rubbish"])
def test_broken_arrays_are_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match="a.npy"):
        load_array(tmp_path / "a.npy", (None, 4096))


@pytest.mark.parametrize("seed", range(20))
def test_damaged_headers_are_refused_or_harmless(tmp_path, seed):
    np.save(tmp_path / "a.npy", np.zeros((3, 4096), np.float32))
    content, random = bytearray((tmp_path / "a.npy").read_bytes()), np.random.default_rng(seed)
    for where in random.integers(128, size=3):
        content[where] = random.integers(256)
    (tmp_path / "a.npy").write_bytes(content)
    try:
        loaded = load_array(tmp_path / "a.npy", (None, 4096))
    except ValueError as error:
        assert "a.npy" in str(error) and "\n" not in str(error)
    else:
        assert loaded.ndim == 2 and loaded.shape[1] == 4096 and np.isfinite(loaded).all()


def test_truncated_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4096), np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="a.npy"):
        load_array(tmp_path / "a.npy", (None, 4096))


def test_one_recording_is_refused_and_nothing_written(tmp_path, vectors):
    np.save(tmp_path / "v.npy", vectors[:1])
    with pytest.raises(ValueError, match="holds 1 recording; at least 2 are needed, and 50 or more are recommended"):
        calibrate(tmp_path / "v.npy", tmp_path / "z.npy", tmp_path / "stats")
    assert [p.name for p in tmp_path.iterdir()] == ["v.npy"]


def test_vectors_of_another_recipe_are_refused(tmp_path, vectors):
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.json").write_text(json.dumps({"recipe": Recipe(n_fft=1024).to_json(), "recordings": 60}))
    with pytest.raises(ValueError, match="n_fft 1024"):
        calibrate(tmp_path / "v.npy", tmp_path / "z.npy", tmp_path / "stats")


# --- what a calibration tells ----------------------------------------------------------------------------------------
def narrow(vectors: np.ndarray, bands: int) -> np.ndarray:
    """Remove everything above so many rows from spectrograms [N, P]."""
    size = math.isqrt(vectors.shape[1])
    spectrograms = vectors.reshape(-1, size, size).copy()
    spectrograms[:, bands:] = -80
    return spectrograms.reshape(len(vectors), -1)


def test_a_narrow_calibration_says_where_it_ends(tmp_path, vectors):
    """Small spectrograms: 16 rows of 4 mel bands each."""
    recipe, small = Recipe(spectrogram_size=16), vectors.reshape(60, 64, 64)[:, ::4, ::4].reshape(60, 256)
    np.save(tmp_path / "v.npy", narrow(small, 11))
    made, report = calibrate(tmp_path / "v.npy", tmp_path / "z.npy", tmp_path / "stats", recipe)
    assert report.floored >= 5 * 16 and report.band_hz == made.band_hz(recipe) == mel_edges()[44]
    about = json.loads((tmp_path / "stats" / "calibration.json").read_text())
    assert about["band_hz"] == report.band_hz and about["floored_elements"] == report.floored
    assert made.reaches_beyond(np.full(256, -40.0, np.float32), recipe)
    assert not made.reaches_beyond(narrow(small, 11)[0], recipe)


def test_a_wide_calibration_has_no_such_end(vectors):
    wide = vectors.copy()
    wide[:, -100:] = vectors[:, -200:-100]
    calibrated = Calibration(wide.mean(axis=0), np.maximum(wide.std(axis=0), STD_FLOOR_DB))
    assert calibrated.band_hz() is None and not calibrated.reaches_beyond(np.zeros(4096, np.float32))


def test_z_scores_are_not_taken_for_vectors_nor_the_reverse(made, vectors):
    folder, _ = made
    with pytest.raises(ValueError, match="z-scores perhaps"):
        calibrate(folder / "z.npy", folder / "zz.npy", folder / "other")
    with pytest.raises(ValueError, match="vectors, not z-scores"):
        calibration.check_z_scores(folder / "v.npy", vectors)
    calibration.check_z_scores(folder / "z.npy", np.load(folder / "z.npy"))


@pytest.mark.parametrize(("part", "name", "value"), [("recipe", "n_fft", 1024), ("constants", "window", "hamming")])
def test_z_scores_of_another_recipe_are_refused_by_name(made, tmp_path, part, name, value):
    about = json.loads((made[0] / "z.json").read_text())
    about[part][name] = value
    (tmp_path / "z.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"made with {name} {value}"):
        calibration.check_z_scores(tmp_path / "z.npy", np.load(made[0] / "z.npy"))


def test_vectors_of_which_some_are_missing_are_refused(tmp_path, vectors):
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.json").write_text(json.dumps({"recipe": Recipe().to_json(), "recordings": 61}))
    with pytest.raises(ValueError, match="v.json says 61 recordings, but .*v.npy has 60"):
        calibrate(tmp_path / "v.npy", tmp_path / "z.npy", tmp_path / "stats")


def test_vectors_that_are_not_those_of_their_description_are_refused(tmp_path, vectors):
    np.save(tmp_path / "v.npy", vectors)
    about = {"recipe": Recipe().to_json(), "recordings": 60, "sha256": {"v.npy": "0" * 64}}
    (tmp_path / "v.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="v.npy is not the file"):
        calibrate(tmp_path / "v.npy", tmp_path / "z.npy", tmp_path / "stats")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path):
    """Neither by the statistics nor by the whitening, which both read blocks."""
    recipe, peaks = Recipe(spectrogram_size=16), []
    importlib.import_module("scipy.sparse.linalg")  # whose memory is not counted
    for rows in (2400, 4800):
        vectors = np.random.default_rng(0).uniform(-80, 0, (rows, 256)).astype(np.float32)
        np.save(tmp_path / "v.npy", vectors)
        tracemalloc.start()
        calibrate(tmp_path / "v.npy", tmp_path / "z.npy", tmp_path / "stats", recipe)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 4800 * 256 * 12


HEADING = "row,path,seconds,sample_rate,sha256,decoder,damage,note\n"


@pytest.fixture
def with_damage(tmp_path, vectors) -> Path:
    """Save five vectors with their table: whole, a tenth missing, half missing, of unknown length, whole."""
    damages = ["", "damaged: 4.50 of 5.00 s could be read", "damaged: 2.50 of 5.00 s could be read (notes)"]
    damages += ["damaged: cut off after 3.00 s", ""]
    np.save(tmp_path / "v.npy", vectors[:5])
    rows = (f"{row},{row}.wav,{row + 1}.0,8000,0,libsndfile,{damage},\n" for row, damage in enumerate(damages))
    (tmp_path / "v.csv").write_text(HEADING + "".join(rows))
    return tmp_path / "v.npy"


@pytest.mark.parametrize(
    ("most_missing", "kept"),
    [(None, [0, 1, 2, 3, 4]), (0.0, [0, 4]), (0.1, [0, 1, 4]), (0.5, [0, 1, 2, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_damaged_recordings_are_left_out(with_damage, vectors, most_missing, kept):
    folder, output = with_damage.parent, with_damage.parent / "z.npy"
    made, report = calibrate(with_damage, output, folder / "stats", most_missing=most_missing)
    assert report.recordings == len(np.load(output)) == len(kept) and report.left_out == 5 - len(kept)
    np.testing.assert_allclose(made.mean_db, vectors[kept].astype(float).mean(axis=0), atol=1e-4)
    rows = list(read_rows(output.with_suffix(".csv")))
    assert [row["path"] for row in rows] == sidecar_names(output, len(kept)) == [f"{row}.wav" for row in kept]
    assert [row["row"] for row in rows] == [str(row) for row in range(len(kept))]
    about = json.loads((folder / "stats" / "calibration.json").read_text())
    assert about.get("most_missing") == most_missing and sum(report.sample_rates.values()) == len(kept)
    if most_missing is not None:
        assert report.seconds == sum(row + 1.0 for row in kept)


def test_names_that_are_not_those_of_the_z_scores_are_not_taken(with_damage):
    output = with_damage.parent / "z.npy"
    calibrate(with_damage, output, with_damage.parent / "stats")
    table = output.with_suffix(".csv")
    table.write_text(table.read_text().replace("1.wav", "other.wav"))
    assert sidecar_names(output, 5) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",damage,", ",other,"), "does not say which recordings are damaged"),
        (lambda text: text[: text.index("\n4,4.wav") + 1], "has 4 rows, and the vectors have 5"),
        (None, "does not say which recordings are damaged"),
    ],
    ids=["no such column", "too short", "no table"],
)
def test_damage_that_no_table_tells_of_is_not_guessed(with_damage, change, message):
    table = with_damage.with_suffix(".csv")
    table.write_text(change(table.read_text())) if change else table.unlink()
    with pytest.raises(ValueError, match=message):
        calibrate(with_damage, with_damage.parent / "z.npy", with_damage.parent / "stats", most_missing=0.5)
    assert not list(with_damage.parent.glob("z*"))


def test_too_few_undamaged_recordings_are_refused(with_damage):
    table = with_damage.with_suffix(".csv")
    table.write_text(
        table.read_text().replace("4.wav,5.0,8000,0,libsndfile,", "4.wav,5.0,8000,0,libsndfile,damaged: ?")
    )
    with pytest.raises(ValueError, match="holds 5 recordings, but 1 with at most 0% missing; at least 2 are needed"):
        calibrate(with_damage, with_damage.parent / "z.npy", with_damage.parent / "stats", most_missing=0.0)


def test_a_table_of_somebody_else_is_not_replaced(with_damage):
    (with_damage.parent / "z.csv").write_text("precious")
    with pytest.raises(ValueError, match="z.csv exists and is no table of this program: choose another output file"):
        calibrate(with_damage, with_damage.parent / "z.npy", with_damage.parent / "stats")
    assert (with_damage.parent / "z.csv").read_text() == "precious"


def test_damage_of_real_files_is_understood(tmp_path):
    """The notes that decoding writes are those that `missing_share` reads."""
    whole = (config.EXAMPLES_DIR / "voice_it.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: 44 + (len(whole) - 44) // 4])
    assert missing_share(extract(tmp_path / "cut.wav").damage) == pytest.approx(0.75, abs=0.01)
    assert missing_share("") == 0 and missing_share("damaged: 1.00 of 0.00 s could be read") == 1


def test_chosen_rows_are_those_of_the_matrix(tmp_path):
    matrix, chosen = np.random.default_rng(0).standard_normal((3000, 3)), np.flatnonzero(np.arange(3000) % 7 < 4)
    np.save(tmp_path / "m.npy", matrix)
    rows = ChosenRows(NpyReader(tmp_path / "m.npy", 3), chosen)
    assert rows.shape == (len(rows), 3) == (len(chosen), 3)
    for part in (slice(0, 1024), slice(1024, 2048), slice(5, 6)):
        np.testing.assert_array_equal(rows[part], matrix[chosen[part]])


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (0.0, 1.5, [0.0, 0.5, 1.0, 1.5]),
        (-80.0, 0.0, [-80.0, -60.0, -40.0, -20.0, 0.0]),
        (0.03, 0.1, [0.04, 0.06, 0.08, 0.1]),
        (2.0, 2.0, [2.0]),
    ],
)
def test_scales_are_marked_at_round_values(low, high, values):
    assert plots.round_values(low, high) == pytest.approx(values)


def test_a_scale_as_long_as_three_steps_has_marks():
    assert plots.round_values(0.0, 0.3) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_any_scale_has_three_to_nine_marks():
    for low, width in np.random.default_rng(0).uniform((-1e3, 1e-3), (1e3, 1e3), (200, 2)):
        values = plots.round_values(low, low + width)
        assert 3 <= len(values) <= 9 and low - 1e-9 <= values[0] and values[-1] <= low + width + 1e-9


def test_plots(tmp_path, vectors):
    """One mel band is as loud as can be: it is a line of the brightest colour, at its height."""
    mean, std = vectors.mean(axis=0), vectors.std(axis=0)
    waveform = np.stack([-np.ones(300), np.ones(300)]).astype(np.float32)
    loud = np.full((64, 300), -80.0, np.float32)
    loud[10] = 0.0
    plots.save_calibration(tmp_path / "c.png", mean, std)
    plots.save_recording(tmp_path / "s.png", waveform, loud, 1.5, spoken=(0.5, 1.25))
    plots.save_recording(tmp_path / "r.png", waveform, loud, 1.5)
    calibration_plot, recording_plot = (Image.open(tmp_path / name).convert("RGB") for name in ("c.png", "r.png"))
    assert len(calibration_plot.getcolors(1 << 20) or ()) > 100  # a heat map
    bottom = plots.HEIGHT // 2 + 4 * plots.LINE + plots.HEIGHT  # of the spectrogram, whose row 0 is the lowest
    column = np.asarray(recording_plot, int)[[bottom - 1 - round(row * 6) for row in range(64)], plots.MARGIN + 100]
    assert np.flatnonzero((column != column[0]).any(axis=1)).tolist() == [10]
    assert column[10].sum() > column[0].sum()
    marked = (np.asarray(Image.open(tmp_path / "s.png")) == plots.MARK).all(axis=2).any(axis=0)
    assert np.flatnonzero(marked).tolist() == [plots.MARGIN + x for x in (100, 101, 249, 250)]


def test_short_recordings_that_are_silent_at_both_ends_reach_as_high_as_they_sound():
    """Two fifths of the columns vary in every band; then only in the lower half of the bands."""
    size = Recipe().spectrogram_size
    std = np.full((size, size), STD_FLOOR_DB, np.float32)
    std[:, : 2 * size // 5] = 5.0
    assert Calibration(np.zeros(size**2, np.float32), std.ravel()).band_hz() is None
    std[size // 2 :] = STD_FLOOR_DB
    band = Calibration(np.zeros(size**2, np.float32), std.ravel()).band_hz()
    assert band and 1500 < band < 2500
