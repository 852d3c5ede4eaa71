"""The training of the voices' embedding, in miniature: few synthetic speakers who say few words several times."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from audio.embedding import PATH, Embedding
from audio.features import extract
from audio.qualities import NAMES
from audio.whitening import WHITENING_NAME, Whitening
from tests.recordings import write_bad
from tests.training.miniature import command, tiny_config
from tests.training.speakers import RATE, VOWELS, say
from training import run
from training.__main__ import main
from training.embedding import axes, sound_changes, sounds, stage
from training.embedding.network import VoiceNetwork, quantise
from training.settings import options_of

WIDTHS = (8, 8, 16, 16)
SPEAKERS, WORDS, TAKES = ("ann", "bob", "cem", "dan"), ("yes", "no", "maybe"), 3
SOUNDS = {"yes": "ie", "no": "ou", "maybe": "aei"}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Compute features here, which takes less time than starting processes, and let few steps and recordings do."""
    with joblib.parallel_config(backend="sequential"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sounds, "cpu_count", lambda: 1)
        patch.setattr(stage, "WARMUP", 5)
        patch.setattr(stage, "BABBLERS", 8)
        patch.setattr(sounds, "TEXTS", 4)
        patch.setattr(sounds, "TEXT_SECONDS", (1.0, 3.0))
        patch.setattr(axes, "AXES", 12)  # fewer than the recordings
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with repeats, recordings, and the yaml of a miniature."""
    folder, rng = tmp_path_factory.mktemp("embedding"), np.random.default_rng(0)
    for number, speaker in enumerate(SPEAKERS):
        (folder / "repeats" / speaker).mkdir(parents=True)
        for word in WORDS:
            for take in range(TAKES):
                sound = say(SOUNDS[word], 90 * 1.3**number, 0.85 + 0.1 * number, rng)
                soundfile.write(folder / "repeats" / speaker / f"{speaker}-{word}-{take}.wav", sound, RATE)
    (folder / "recordings").mkdir()
    for number in range(12):
        vowels = "".join(rng.choice(list(VOWELS), rng.integers(2, 5)))
        sound = say(vowels, rng.uniform(80, 300), rng.uniform(0.8, 1.25), rng)
        soundfile.write(folder / "recordings" / f"{number:02}.wav", sound, RATE)
    save_yaml(folder)
    return folder


def save_yaml(folder: Path, **settings: object) -> None:
    yaml = tiny_config()
    tiny = {
        "widths": list(WIDTHS),
        "pairs_of_repeats": 9,
        "pairs_of_recordings": 6,
        "speakers_of_texts": 1,
        "steps": 40,
        "held_out": 1,
    }
    yaml.training.embedding.update(tiny | settings)
    OmegaConf.save(yaml, folder / "tiny.yaml")


def train(folder: Path, repeats: str = "repeats", recordings: str = "recordings") -> None:
    command("embedding", folder, "--repeats", str(folder / repeats), "--recordings", str(folder / recordings))


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The same folder after the training, with the result in embedding/embedding.npz."""
    train(folder)
    return folder / "embedding"


# --- what is trained -------------------------------------------------------------------------------------------------
def whitening() -> Whitening:
    return Whitening.load(PATH.with_name(WHITENING_NAME))


def codes_of(embedding: Embedding, voices: list[np.ndarray]) -> np.ndarray:
    """The numbers of voices, weighted as in x_T, of unit length."""
    features = [extract(voice, sample_rate=RATE) for voice in voices]
    spectrograms = whitening().stretch(np.stack([one.vector for one in features]).astype(np.float64))
    octaves = np.log2([one.end - one.begin for one in features])
    codes = embedding.numbers(spectrograms, octaves) * np.sqrt(embedding.shares)
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize(("speakers", "share"), [(SPEAKERS[:-1], 0.95), (SPEAKERS[-1:], 0.78)])  # the last: not learned
def test_repeats_in_noise_and_through_another_microphone_are_nearer_than_others(speakers, share, folder, trained):
    """A network that has hardly learned ranks 0.89 and 0.71 of the repeats above others."""
    embedding = Embedding.load(trained / PATH.name)
    paths = sorted((folder / "repeats").rglob("*.wav"))
    words = [path.stem.rpartition("-")[0] for path in paths]
    voices = [soundfile.read(path, dtype="float32")[0] for path in paths]
    changed = []
    for number, voice in enumerate(voices):
        rng = np.random.default_rng(number)
        coloured = sound_changes.another_microphone(voice, rng, 5.0, 9)
        level = sound_changes.loudness(coloured)
        changed.append(sound_changes.with_noise(coloured, sound_changes.coloured_noise(len(voice), rng, 0.5), level, 8))
    cosines = codes_of(embedding, voices) @ codes_of(embedding, changed).T
    again, rows = np.equal.outer(words, words), [word.split("-")[0] in speakers for word in words]
    repeats = again & ~np.eye(len(words), dtype=bool)  # another take, not the same one in another place
    assert (cosines[rows][repeats[rows]][:, None] > cosines[rows][~again[rows]]).mean() > share


@pytest.mark.slow
def test_the_network_learns(trained):
    losses = [float(line.split(",")[2]) for line in (trained / "loss.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_numbers_are_standard_normal_over_what_they_were_fitted_to(folder, trained):
    embedding = Embedding.load(trained / PATH.name)
    assert embedding.shares.sum() == pytest.approx(1, abs=1e-5) and (np.diff(embedding.shares) <= 0).all()
    found = sounds.read_sounds(folder / "recordings", trained / "recordings.npy")
    spectrograms, named, octaves = axes.described(whitening(), found.vectors, found.heard)
    numbers = embedding.numbers(spectrograms, octaves)
    assert abs(numbers.mean()) < 0.3 and 0.5 < numbers.std() < 1.5
    again = embedding.said_again(named, numbers)
    np.testing.assert_allclose(again.mean(axis=0), 0, atol=1e-5)
    assert again.std(axis=0).max() < 1.1


@pytest.mark.slow
def test_an_interrupted_run_gives_the_same_bytes(folder, trained, monkeypatch):
    whole = (trained / PATH.name).read_bytes()
    for name in (PATH.name, run.CHECKPOINT, "loss.csv"):
        (trained / name).unlink()
    rate = stage.cosine_rate

    def interrupted(peak: float, step: int, steps: int) -> float:
        if step == 17:
            raise KeyboardInterrupt
        return rate(peak, step, steps)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "SAVE_EVERY", 0.0)
        patch.setattr(stage, "cosine_rate", interrupted)
        train(folder)
    assert torch.load(trained / run.CHECKPOINT, weights_only=True)["step"] == 17
    train(folder)
    assert (trained / PATH.name).read_bytes() == whole


# --- its parts -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("widths", [WIDTHS, (24, 48, 96, 160)])
def test_whole_numbers_give_the_directions_of_the_float_network(widths):
    torch.manual_seed(0)
    network = VoiceNetwork(widths)
    spectrograms = whitening().stretch(np.random.default_rng(0).uniform(-80, 0, (24, 4096)) ** 3 / 6400)
    network(torch.randn(16, 2, 64, 64))  # moments of batch normalisation that are not 0 and 1
    network.eval()
    blank = np.zeros((8, 128), np.float32)
    again = np.zeros((len(NAMES), len(NAMES) + 128), np.float32)
    embedding = Embedding(
        quantise(network, spectrograms),
        np.eye(128),
        blank,
        blank + 1,
        blank[:2],
        blank[0] + 1 / 128,
        again,
        again[:, 0],
    )
    exact, rounded = axes.mean_directions(network, spectrograms), embedding.numbers(spectrograms, np.full(24, np.nan))
    assert (exact * rounded).sum(axis=1).min() > 0.9999
    assert (exact @ exact.T).min() < 0.9999  # otherwise any direction would do


def test_contrast_is_the_cross_entropy_of_finding_the_partner():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((6, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    expected = []
    for one in range(6):
        scores = {other: math.exp(z[one] @ z[other] / stage.TEMPERATURE) for other in range(6) if other != one}
        expected.append(-math.log(scores[(one + 3) % 6] / sum(scores.values())))
    assert stage.contrast_loss(torch.from_numpy(z)).item() == pytest.approx(np.mean(expected))


def test_the_first_axis_is_the_one_that_repeats_best(monkeypatch):
    monkeypatch.setattr(axes, "REGULAR", 1e-4)
    rng = np.random.default_rng(0)
    words, spread, noise = rng.standard_normal((300, 3)), np.array([1.0, 3.0, 1.0]), np.array([0.1, 3.0, 1.0])
    takes = np.repeat(words * spread, 4, axis=0) + noise * rng.standard_normal((1200, 3))
    rows = np.arange(1200).reshape(300, 4)
    found, ratios = axes.discriminant_axes(np.cov(takes.T), axes.scatter_of_repeats(takes, list(rows)))
    assert np.abs(found[0]).argmax() == 0 and ratios[0] == pytest.approx(101, rel=0.2)
    np.testing.assert_allclose(np.cov((takes @ found.T).T), np.eye(3), atol=1e-6)


def test_another_take_is_predicted_from_the_number_that_tells_it():
    """A quality that is measured with noise, and a number that knows it: the prediction follows the number."""
    rng = np.random.default_rng(0)
    qualities, words = len(NAMES), np.arange(800).reshape(200, 4)
    true = np.repeat(rng.standard_normal((200, qualities)), 4, axis=0)
    named = (true + 2 * rng.standard_normal(true.shape)) / math.sqrt(5)
    numbers = np.concatenate([true[:, :1], rng.standard_normal((800, 3))], axis=1)
    none = np.zeros(0)
    blank = Embedding((), np.eye(4), none, none, none, none, np.zeros((qualities, qualities + 4)), np.zeros(qualities))
    embedding = axes.with_prediction(blank, (named, numbers), list(words), (named, numbers))
    again = embedding.said_again(named, numbers)
    np.testing.assert_allclose(np.cov(again.T), np.eye(qualities), atol=0.01)
    np.testing.assert_allclose(again.mean(axis=0), 0, atol=1e-5)
    correlation = [np.corrcoef(again[:, one], true[:, one])[0, 1] for one in (0, 1)]
    assert correlation[0] > 0.9 and 0.3 < correlation[1] < 0.6


def test_lengths_have_moments_of_their_own():
    octaves = np.repeat([-1.0, 4.0], 500)
    values = np.random.default_rng(0).standard_normal((1000, 2)) + octaves[:, None]
    means, deviations = axes.Moments.of(octaves, np.full(1000, 1e-3))(values)
    assert means[0, 0] < -0.8 and means[-1, 0] > 3.8 and deviations[[0, -1]] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_a_batch_holds_pairs(folder, trained, monkeypatch):
    """Both of a pair are of one speaker and word, or of one recording; no two pairs are."""
    options = options_of(OmegaConf.load(folder / "tiny.yaml")).embedding
    material = sounds.gather(folder / "repeats", folder / "recordings", trained, options.held_out, 0)
    of_vector: dict[bytes, tuple[object, str]] = {}
    for name, vectors, labels in (
        ("take", material.repeats.vectors, [path.stem.rpartition("-")[0] for path in material.repeats.paths]),
        (
            "copy",
            material.repeat_copies,
            [material.repeats.paths[row].stem.rpartition("-")[0] for row in material.copied],
        ),
        ("recording", material.recordings.vectors, range(12)),
        ("changed", material.recording_copies, np.repeat(range(12), sounds.COPIES)),
        ("text", material.texts.vectors, [path.stem for path in material.texts.paths]),
    ):
        of_vector |= {vector.tobytes(): (label, name) for vector, label in zip(vectors, labels, strict=True)}
    drawn: list[torch.Tensor] = []

    def unchanged(x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        drawn.append(x)
        return x

    monkeypatch.setattr(stage, "change", unchanged)
    pairs = stage.Pairs(material, options)
    kinds = set()
    for step in range(4):
        x, named = pairs.batch(np.random.default_rng(step))
        assert x.shape == (38, 2, 64, 64) and named.shape == (38, len(NAMES))
        torch.testing.assert_close(named[:19], named[19:])
        found = [of_vector[one.numpy().tobytes()] for one in drawn[-1]]
        first, second = found[:19], found[19:]
        assert [label for label, _ in first] == [label for label, _ in second]
        assert len({label for label, _ in first}) == 19
        assert not (drawn[-1][:9] == drawn[-1][19:28]).all(dim=(1, 2)).any()  # never a take with itself
        assert not [label for label, _ in found if str(label).startswith(SPEAKERS[-1])]  # who is kept for the test
        assert len({sounds.speaker_of(Path(str(label))) for label, kind in first if kind == "text"}) == 1
        kinds |= {kind for _, kind in found}
    assert kinds == {"take", "copy", "recording", "changed", "text"}


@pytest.mark.slow
def test_texts_are_of_one_speaker_each_and_of_all_lengths(trained, folder):
    material = sounds.gather(folder / "repeats", folder / "recordings", trained, 1, 0)
    speakers = [{sounds.speaker_of(material.texts.paths[row]) for row in rows} for rows in material.texts_by_speaker]
    assert speakers == [{speaker} for speaker in SPEAKERS[:-1]]
    for rows in material.texts_by_speaker:
        seconds = [soundfile.info(material.texts.paths[row]).duration for row in rows]
        assert len(rows) == 4 and 1 <= seconds[0] < seconds[1] < seconds[2] < seconds[3] <= 3


@pytest.mark.slow
def test_copies_are_made_anew_where_a_recording_changes(folder, trained, monkeypatch):
    """And read where nothing has changed."""
    found = sounds.read_sounds(folder / "recordings", trained / "recordings.npy")
    made = []

    def noted(path: Path, *_: object) -> np.ndarray:
        made.append(path)
        return np.zeros(4096, np.float32)

    monkeypatch.setattr(sounds, "changed_copy", noted)
    for digests, copies in ((found.digests, 4 + 2), (found.digests, 2), (["other", *found.digests[1:]], 4 + 2)):
        made.clear()
        copied = sounds.changed_copies(replace(found, digests=digests), [0, 0, 5, 6], found, trained / "some", 0)
        assert copied.shape == (4, 4096) and len(made) == copies  # two of them for the fingerprint


# --- what people give it ---------------------------------------------------------------------------------------------
def test_files_say_who_says_what_and_which_take():
    paths = [Path(f"a/{name}.wav") for name in ("ann-yes-1", "ann-yes-02", "ann-no-1", "mary-ann-yes-1")]
    assert sounds.words_of(paths) == {("ann", "yes"): [0, 1], ("ann", "no"): [2], ("mary-ann", "yes"): [3]}
    with pytest.raises(ValueError, match="ann_yes_1.wav is not named SPEAKER-WORD-TAKE"):
        sounds.words_of([*paths, Path("ann_yes_1.wav")])


def test_speakers_are_kept_for_the_test():
    words = {("ann", "yes"): [0, 1], ("ann", "no"): [2], ("bob", "yes"): [3, 4, 5], ("cem", "no"): [6, 7]}
    assert sounds.split_speakers(words, 1, Path("x")) == ([[0, 1], [3, 4, 5]], [[6, 7]])
    assert sounds.split_speakers(words, 0, Path("x")) == ([[0, 1], [3, 4, 5], [6, 7]], [])
    with pytest.raises(ValueError, match="x has 3 speakers with two takes of a word; 4 are needed"):
        sounds.split_speakers(words, 3, Path("x"))


def folder_of(path: Path, takes: int, others: int) -> Path:
    """Make a folder with so many takes of a word by two speakers, and so many recordings; and the yaml."""
    for name, sound_names in (
        ("repeats", [f"{speaker}-yes-{take}" for speaker in ("ann", "bob") for take in range(takes)]),
        ("recordings", [str(number) for number in range(others)]),
    ):
        (path / name).mkdir()
        for sound_name in sound_names:
            soundfile.write(path / name / f"{sound_name}.wav", say("ai", 120, 1, np.random.default_rng(0)), RATE)
    save_yaml(path)
    return path


@pytest.mark.parametrize(
    ("takes", "others", "message"),
    [
        (0, 1, "no files in .*repeats"),
        (2, 0, "no files in .*recordings"),
        (1, 1, "repeats has 0 speakers with two takes of a word; 2 are needed at least"),
    ],
)
def test_too_little_to_learn_from_is_told(takes, others, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(folder_of(tmp_path, takes, others))
    assert not (tmp_path / "embedding" / run.CHECKPOINT).exists()


def test_wrong_names_are_told_before_anything_is_measured(tmp_path):
    folder = folder_of(tmp_path, 2, 1)
    (folder / "repeats" / "ann-yes-0.wav").rename(folder / "repeats" / "yes.wav")
    with pytest.raises(ValueError, match="yes.wav is not named SPEAKER-WORD-TAKE"):
        train(folder)
    assert not (tmp_path / "embedding").exists()


def test_files_that_cannot_be_read_are_skipped_and_told(tmp_path, capsys):
    folder = folder_of(tmp_path, 2, 1)
    for name, kind in (("ann-yes-8.wav", "silent"), ("ann-yes-9.wav", "header_only"), ("LICENSE", "text")):
        write_bad(folder / "repeats" / name, kind)
    found = sounds.read_sounds(folder / "repeats", tmp_path / "made" / "repeats.npy")
    assert len(found) == 4 == len(found.vectors) == len(found.heard)
    skipped = tmp_path / "made" / "repeats_skipped.csv"
    assert f"2 files skipped: {skipped} says why" in capsys.readouterr().out
    assert "ann-yes-9.wav" in skipped.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the stage embedding needs --repeats and --recordings"),
        (("--repeats", "{folder}"), "the stage embedding needs --recordings"),
        (("--repeats", "{folder}", "--recordings", "{folder}", "--from", "{folder}"), "starts from random weights"),
        (("--repeats", "{folder}/x", "--recordings", "{folder}"), "there is no folder"),
    ],
)
def test_a_command_line_that_lacks_something_is_told_so(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["embedding", *(argument.format(folder=tmp_path) for argument in arguments)])
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_folders_of_sounds_belong_to_this_stage(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["prior", "--repeats", str(tmp_path)])
    assert left.value.code == 2 and "--repeats belongs to the stage embedding" in capsys.readouterr().err


@pytest.mark.slow
def test_other_settings_than_those_of_the_checkpoint_are_refused(folder, trained):
    save_yaml(folder, widths=[8, 8, 8, 16])
    with pytest.raises(ValueError, match="move its folder away to train anew"):
        train(folder)
    save_yaml(folder)
