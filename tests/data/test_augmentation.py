"""Changes of log-mels: each is what it would be on the waveform, and a draw depends on nothing but its place."""

import math
import random
from dataclasses import replace

import pytest
import torch

from rnn_hf.data.augmentation import (
    Augmentation,
    Plan,
    StringPlans,
    distorted,
    joined,
    masked,
    noise_log_mels,
    stretched,
    warped,
    with_noise,
)


FLOOR = -20.0
EVERYTHING = Augmentation(
    speed=0.2, gain_db=6, noise_probability=0.8, min_snr_db=5, silence_frames=9, gap_frames=4, time_masks=2,
    time_mask_frames=6, frequency_masks=1, frequency_mask_bands=3,
)  # fmt: skip
LENGTHS = [7, 12, 30, 9, 25, 14]
SPEAKERS = ["ann", "bob", "ann", "bob", "ann", None]


def energies(samples):
    """Log energies of frames of 64 samples, `(T, 33)`: what a log-mel is without the mel filters."""
    return torch.fft.rfft(samples.reshape(-1, 64)).abs().square().clamp(min=1e-30).log()


@pytest.fixture
def log_mels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 8, dtype=torch.float64, generator=generator) for length in LENGTHS]


@pytest.fixture
def waves():
    return torch.randn(2, 6400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def total(log_mel):
    """Mean energy of a frame."""
    return log_mel.exp().sum(1).mean()


def test_another_speed_keeps_the_ends_and_what_is_linear_in_time(log_mels):
    log_mel = log_mels[2]
    assert torch.equal(stretched(log_mel, len(log_mel)), log_mel)
    ramp = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    for frames in (1, 2, 10, 25):
        fast = stretched(log_mel, frames)
        assert fast.shape == (frames, 8) and torch.equal(fast[0], log_mel[0])
        if frames > 1:
            assert torch.equal(fast[-1], log_mel[-1])
            expected = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None] * ramp[-1]
            torch.testing.assert_close(stretched(ramp, frames), expected, atol=1e-12, rtol=0)


def test_gain_of_log_mels_is_gain_of_the_waveform(waves):
    plan = Plan([(0, 100)], [0, 0])
    augmentation = Augmentation(gain_db=12)
    for seed in range(5):
        louder = distorted(energies(waves[0]), plan, augmentation, torch.zeros(1, 1, 33), FLOOR, random.Random(seed))
        gain = (louder - energies(waves[0]))[0, 0]
        assert abs(gain) <= 12 * math.log(10) / 10
        factor = math.exp(gain / 2)  # of samples, whose square is their energy
        torch.testing.assert_close(louder, energies(factor * waves[0]).clamp(min=FLOOR), atol=1e-10, rtol=0)


@pytest.mark.parametrize("snr_db", [-10, 0, 25])
def test_noise_has_its_ratio_to_the_speech_wherever_there_is_silence(waves, snr_db):
    speech, noise = energies(waves[0]), energies(waves[1]) + 3
    silence = torch.full((40, 33), FLOOR - 30, dtype=torch.float64)
    added = with_noise(torch.cat([silence, speech]), torch.cat([noise, noise[:40]]), snr_db, len(speech))
    what_was_added = added.exp() - torch.cat([silence, speech]).exp()
    ratio = total(speech) / what_was_added.sum(1).mean()
    assert 10 * math.log10(ratio) == pytest.approx(snr_db, abs=1e-6)
    # The noise is the same but for its level.
    level = what_was_added.log() - torch.cat([noise, noise[:40]])
    torch.testing.assert_close(level, level[:1, :1].expand_as(level), atol=1e-6, rtol=0)


def test_noises_fall_by_three_decibels_an_octave_from_one_to_the_next():
    rate = 8000
    noises = noise_log_mels(lambda samples: energies(samples.double()), rate)
    assert noises.shape == (3, 20 * rate // 64, 33)
    bands = noises.exp().mean(1)
    for slope, powers in zip((0, 1, 2), bands, strict=True):
        for low, high in ((2, 4), (4, 8), (8, 16)):
            assert 10 * math.log10(powers[low] / powers[high]) == pytest.approx(3.01 * slope, abs=1.2)
    torch.testing.assert_close(noises, noise_log_mels(lambda samples: energies(samples.double()), rate))


def test_a_string_is_its_recordings_with_silence_at_the_floor(log_mels):
    plan = Plan([(2, 30), (0, 7), (2, 30)], [3, 0, 2, 4])
    string = joined(plan, log_mels, FLOOR)
    assert len(string) == plan.length == 76
    expected = [log_mels[2], log_mels[0], log_mels[2]]
    places = [slice(3, 33), slice(33, 40), slice(42, 72)]
    for place, log_mel in zip(places, expected, strict=True):
        assert torch.equal(string[place], log_mel)
    is_speech = torch.zeros(76, dtype=torch.bool)
    for place in places:
        is_speech[place] = True
    assert (string[~is_speech] == FLOOR).all()
    assert len(joined(Plan([(1, 9)], [0, 0]), log_mels, FLOOR)) == 9


def test_a_warp_moves_what_is_heard_to_another_frequency(log_mels):
    centers = torch.tensor([100.0, 200, 300, 450, 700, 1100, 1800, 3000], dtype=torch.float64)
    torch.testing.assert_close(warped(log_mels[2], centers, 1.0), log_mels[2])
    line = centers[None] * torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    for factor in (0.8, 0.95, 1.1, 1.3):
        expected = (line * factor).clamp(line.amin(1, keepdim=True), line.amax(1, keepdim=True))
        torch.testing.assert_close(warped(line, centers, factor), expected)


def test_a_draw_depends_on_seed_epoch_and_index_alone():
    plans = StringPlans(LENGTHS, SPEAKERS, EVERYTHING, most=4, seed=3)
    drawn = {(epoch, index): plans.draw(epoch, index)[0] for epoch in range(3) for index in range(6)}
    again = StringPlans(LENGTHS, SPEAKERS, EVERYTHING, most=4, seed=3)
    for place in reversed(drawn):
        plan, generator = again.draw(*place)
        assert plan == drawn[place] and generator.random() == plans.draw(*place)[1].random()
    other = StringPlans(LENGTHS, SPEAKERS, EVERYTHING, most=4, seed=4)
    assert sum(other.draw(*place)[0] == plan for place, plan in drawn.items()) <= 1
    assert len({str(plan) for plan in drawn.values()}) == len(drawn)


def test_an_epoch_begins_a_string_with_each_recording_keeps_to_its_speaker_and_grows_by_its_number():
    plans = StringPlans(LENGTHS, SPEAKERS, EVERYTHING, most=4, curriculum_epochs=6)
    numbers = set()
    for epoch in range(40):
        for index, speaker in enumerate(SPEAKERS):
            plan, _ = plans.draw(epoch, index)
            assert plan.parts[0][0] == index and {SPEAKERS[part] for part, _ in plan.parts} == {speaker}
            assert len(plan.silences) == len(plan.parts) + 1
            for part, frames in plan.parts:
                assert LENGTHS[part] / 1.2 - 1 <= frames <= LENGTHS[part] / 0.8 + 1
            numbers.add((epoch, len(plan.parts)))
            reached = min(1, epoch / 6)
            assert max(plan.silences[0], plan.silences[-1]) <= 9 * reached
            assert max([0, *plan.silences[1:-1]]) <= 4 * reached
    for epoch in range(40):
        most = plans.most_in(epoch)
        assert all(number <= most for at, number in numbers if at == epoch)
    assert [plans.most_in(epoch) for epoch in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {number for _, number in numbers} == {1, 2, 3, 4}
    assert StringPlans(LENGTHS, SPEAKERS, EVERYTHING, most=4).most_in(0) == 4


def test_silence_noise_and_masks_grow_from_none():
    plans = StringPlans(LENGTHS, SPEAKERS, EVERYTHING, curriculum_epochs=4)
    first, second, last = (plans.augmentation_in(epoch) for epoch in (0, 2, 4))
    assert last is EVERYTHING and plans.augmentation_in(9) is EVERYTHING
    for name in ("silence_frames", "gap_frames", "noise_probability", "time_mask_frames", "frequency_mask_bands"):
        whole = getattr(EVERYTHING, name)
        assert getattr(first, name) == 0 < getattr(second, name) <= whole / 2
    assert (first.speed, first.gain_db, first.time_masks) == (EVERYTHING.speed, EVERYTHING.gain_db, 2)


def test_a_recording_that_breaks_off_stands_alone_and_is_short(log_mels):
    plans = StringPlans(LENGTHS, SPEAKERS, replace(EVERYTHING, cut_probability=0.3), most=4)
    drawn = [plans.draw(epoch, index)[0] for epoch in range(200) for index in range(len(LENGTHS))]
    cut = [plan for plan in drawn if plan.cut is not None]
    assert len(cut) / len(drawn) == pytest.approx(0.3, abs=0.06)
    for plan in cut:
        ((_, frames),) = plan.parts
        assert 1 <= plan.cut <= max(1, 0.35 * frames + 0.5) and plan.silences[1] == 0
        assert plan.length == plan.silences[0] + plan.cut == len(joined(plan, log_mels, FLOOR))
    whole = replace(cut[0], cut=None)
    assert torch.equal(joined(cut[0], log_mels, FLOOR), joined(whole, log_mels, FLOOR)[: cut[0].length])
    assert all(
        plan.cut is None for plan in (StringPlans(LENGTHS, SPEAKERS, EVERYTHING).draw(0, i)[0] for i in range(6))
    )


def test_without_augmentation_a_string_of_one_is_the_recording(log_mels):
    plans = StringPlans(LENGTHS, SPEAKERS, Augmentation())
    for index, log_mel in enumerate(log_mels):
        plan, generator = plans.draw(1, index)
        string = joined(plan, log_mels, FLOOR)
        string = distorted(string, plan, plans.augmentation, torch.zeros(1, 1, 8), FLOOR, generator)
        assert torch.equal(masked(string, 1, plans.augmentation, generator), log_mel)


def test_masks_are_spans_within_their_limits_and_nothing_else_changes():
    features = torch.rand(50, 8) + 1
    seen = set()
    for seed in range(60):
        one = Augmentation(time_masks=1, time_mask_frames=6, frequency_masks=1, frequency_mask_bands=3)
        changed = masked(features, 1, one, random.Random(seed))
        blank = changed == 0
        rows, columns = blank.all(1), blank.all(0)
        assert torch.equal(changed, torch.where(rows[:, None] | columns, 0, features))
        for line, longest in ((rows, 6), (columns, 3)):
            places = line.nonzero().flatten().tolist()
            assert len(places) <= longest and places == list(range(*((places[0], places[-1] + 1) if places else (0,))))
        seen.add((int(rows.sum()), int(columns.sum())))
    assert {6, 0} <= {row for row, _ in seen} and {3, 0} <= {column for _, column in seen}
    short = masked(features[:10], 1, Augmentation(time_masks=1, time_mask_frames=9), random.Random(1))
    assert (short == 0).all(1).sum() <= 2
    assert (features > 0).all()
