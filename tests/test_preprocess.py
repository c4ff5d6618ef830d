import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnb import preprocess
from capsnb.preprocess import Preprocess, rotate, standardise

BATCHES = st.builds(
    lambda batch, channels, height, width, seed: torch.randint(
        256,
        (batch, channels, height, width),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.uint8,
    ),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(0, 1000),
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_windows(image, pad, height, width):
    """Every window of one padded image [C, H, W], pixel by pixel, in [0, 1], by its corner."""
    channels, image_height, image_width = image.shape
    windows = {}
    for top in range(image_height + 2 * pad - height + 1):
        for left in range(image_width + 2 * pad - width + 1):
            window = torch.zeros(channels, height, width)
            for row in range(height):
                for column in range(width):
                    y, x = top + row - pad, left + column - pad
                    if 0 <= y < image_height and 0 <= x < image_width:
                        window[:, row, column] = image[:, y, x].float() / 255
            windows[top, left] = window
    return windows


def slow_turn(image, degrees, top, left, height, width):
    """One window of one turned image, each pixel from the four around the place it comes from."""
    _, image_height, image_width = image.shape
    window = image.new_zeros(image.shape[0], height, width)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for row in range(height):
        for column in range(width):
            y, x = top + row - (image_height - 1) / 2, left + column - (image_width - 1) / 2
            from_y = sine * x + cosine * y + (image_height - 1) / 2
            from_x = cosine * x - sine * y + (image_width - 1) / 2
            for y0 in (math.floor(from_y), math.floor(from_y) + 1):
                for x0 in (math.floor(from_x), math.floor(from_x) + 1):
                    if 0 <= y0 < image_height and 0 <= x0 < image_width:
                        share = (1 - abs(from_y - y0)) * (1 - abs(from_x - x0))
                        window[:, row, column] += share * image[:, y0, x0]
    return window


@settings(max_examples=25, deadline=None)
@given(images=BATCHES, pad=st.integers(0, 2), crop=st.none() | st.integers(1, 6), seed=st.integers(0, 99))
def test_a_training_view_is_a_window_of_the_padded_image(images, pad, crop, seed):
    crop = None if crop is None else min(crop, *images.shape[2:])
    height, width = (crop, crop) if crop else images.shape[2:]
    _, targets = Preprocess(pad=pad, crop=crop).train(images, seeded(seed))
    for image, target in zip(images, targets, strict=True):
        windows = slow_windows(image, pad, height, width).values()
        assert any(torch.equal(target, window) for window in windows)


@settings(max_examples=25, deadline=None)
@given(images=BATCHES, pad=st.integers(0, 3), crop=st.none() | st.integers(1, 6))
def test_evaluation_is_the_centre_window(images, pad, crop):
    crop = None if crop is None else min(crop, *images.shape[2:])
    height, width = (crop, crop) if crop else images.shape[2:]
    _, targets = Preprocess(pad=pad, crop=crop, rotate=30).evaluate(images)
    top, left = (images.shape[2] + 2 * pad - height) // 2, (images.shape[3] + 2 * pad - width) // 2
    for image, target in zip(images, targets, strict=True):
        assert torch.equal(target, slow_windows(image, pad, height, width)[top, left])


def test_evaluation_at_the_original_size_is_the_image():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(Preprocess(standardise=False).evaluate(images)[0], images / 255)


def test_every_shift_occurs_and_differs_between_images():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(600, 1, 5, 5)
    _, targets = Preprocess(pad=2).train(image, seeded())
    assert len({view.numpy().tobytes() for view in targets}) == 25  # offsets 0 to 4, down and across


@settings(max_examples=30, deadline=None)
@given(
    images=BATCHES,
    pad=st.integers(0, 2),
    turn=st.sampled_from([0, 10.0, 180]),
    resize=st.none() | st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_ranges_shapes_and_moments(images, pad, turn, resize, seed):
    settings_ = Preprocess(pad=pad, rotate=turn, resize=resize)
    for inputs, targets in (settings_.train(images, seeded(seed)), settings_.evaluate(images)):
        shape = settings_.output_shape(tuple(images.shape[1:]))
        assert inputs.shape == targets.shape == (len(images), *shape)
        assert inputs.dtype == targets.dtype == torch.float32
        assert targets.min() >= 0 and targets.max() <= 1
        assert torch.equal(inputs, standardise(targets))
        for image in inputs.flatten(1):
            if image.any():
                assert abs(image.mean()) < 1e-4 and abs(image.var(correction=0) - 1) < 1e-3


def test_signed_pixels_lie_in_minus_one_to_one_and_targets_stay():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    inputs, targets = Preprocess(pad=0, standardise=False, signed=True).evaluate(images)
    assert torch.allclose(inputs.flatten(), torch.tensor([-1, -0.6, 1]))
    assert torch.allclose(targets.flatten(), torch.tensor([0, 0.2, 1]))
    with pytest.raises(ValueError, match="standardise=False"):
        Preprocess(signed=True)


def test_without_standardising_the_inputs_are_the_targets():
    images = torch.randint(256, (4, 1, 6, 6), dtype=torch.uint8)
    inputs, targets = Preprocess(standardise=False, rotate=20).train(images, seeded())
    assert torch.equal(inputs, targets)


@pytest.mark.parametrize("value", [0, 1, 77, 255])
@pytest.mark.parametrize("resize", [None, 7, 40])
def test_an_image_of_one_value_becomes_zeros(value, resize):
    images = torch.full((2, 3, 28, 28), value, dtype=torch.uint8)
    inputs, targets = Preprocess(pad=0, resize=resize).evaluate(images)
    assert torch.equal(inputs, torch.zeros_like(inputs))
    torch.testing.assert_close(targets, torch.full_like(targets, value / 255))


def test_one_different_pixel_is_enough_to_be_standardised():
    images = torch.full((1, 1, 28, 28), 128, dtype=torch.uint8)
    images[0, 0, 3, 3] = 129
    inputs, _ = Preprocess().evaluate(images)
    assert inputs.var(correction=0).item() == pytest.approx(1, abs=1e-2)


def test_standardise_takes_all_channels_together():
    images = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])[None]
    assert torch.equal(standardise(images), torch.stack([-torch.ones(2, 2), torch.ones(2, 2)])[None])


@settings(max_examples=20, deadline=None)
@given(images=BATCHES, turn=st.sampled_from([0, 15]), seed=st.integers(0, 99))
def test_only_the_generator_decides(images, turn, seed):
    settings_ = Preprocess(rotate=turn)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = settings_.train(images, seeded(seed))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = settings_.train(images, seeded(seed))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_generator_moves_on():
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    generator = seeded()
    first, second = (Preprocess().train(images, generator)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_the_stored_images_are_left_alone():
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    before = images.clone()
    Preprocess(rotate=10, resize=5).train(images, seeded())
    Preprocess(pad=0).evaluate(images)
    assert torch.equal(images, before)


@settings(max_examples=25, deadline=None)
@given(images=BATCHES)
def test_turning_by_nothing_changes_nothing(images):
    torch.testing.assert_close(rotate(images.float(), 0), images.float(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
@pytest.mark.parametrize("size", [2, 5, 28])
def test_quarter_turns_equal_rot90(quarters, size):
    images = torch.rand(3, 2, size, size)
    expected = torch.rot90(images, quarters, dims=(2, 3))
    torch.testing.assert_close(rotate(images, 90 * quarters), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    images=BATCHES,
    degrees=st.floats(-180, 180),
    top=st.integers(-2, 2),
    left=st.integers(-2, 2),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_turned_windows_equal_the_slow_version(images, degrees, top, left, height, width):
    images = images.double() / 255
    count = len(images)
    angles = torch.linspace(degrees, degrees / 2, count).double()
    tops, lefts = torch.full((count,), top), torch.full((count,), left)
    fast = preprocess._rotate_and_crop(images, angles, tops, lefts, height, width)
    for image, angle, window in zip(images, angles.tolist(), fast, strict=True):
        expected = slow_turn(image, angle, top, left, height, width)
        torch.testing.assert_close(window, expected, rtol=1e-6, atol=1e-6)


def test_training_angles_fill_the_range_on_both_sides(monkeypatch):
    seen = {}
    turned = preprocess._rotate_and_crop

    def spy(images, degrees, *rest):
        seen["degrees"] = degrees
        return turned(images, degrees, *rest)

    monkeypatch.setattr(preprocess, "_rotate_and_crop", spy)
    Preprocess(rotate=10).train(torch.zeros(2000, 1, 4, 4, dtype=torch.uint8), seeded())
    degrees = seen["degrees"]
    assert -10 <= degrees.min() < -9.9 and 9.9 < degrees.max() <= 10
    assert abs(degrees.mean()) < 0.5


def test_a_small_turn_shifts_like_a_crop():
    """The two ways through `train` place the window alike: an angle near zero gives the exact crop."""
    images = torch.randint(256, (32, 3, 9, 7), dtype=torch.uint8)
    for crop in (None, 5, 11):
        _, exact = Preprocess(pad=2, crop=crop).train(images, seeded(3))
        _, turned = Preprocess(pad=2, crop=crop, rotate=1e-4).train(images, seeded(3))
        torch.testing.assert_close(turned, exact, rtol=0, atol=1e-3)


def test_resizing_to_the_same_size_keeps_the_image():
    images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    same = Preprocess(pad=0, resize=8, standardise=False).evaluate(images)[0]
    torch.testing.assert_close(same, images / 255)


def test_shrinking_forgets_no_pixel():
    """Each image has one bright pixel; without antialiasing most of them would fall between the samples."""
    images = (255 * torch.eye(64)).to(torch.uint8).view(64, 1, 8, 8)
    small = Preprocess(pad=0, resize=2, standardise=False).evaluate(images)[0]
    assert (small.flatten(1).sum(1) > 0).all()


@pytest.mark.gpu
def test_the_same_generator_gives_the_same_views_on_the_gpu():
    images = torch.randint(256, (16, 3, 12, 12), dtype=torch.uint8)
    for turn in (0, 20):
        here = Preprocess(rotate=turn, resize=9).train(images, seeded())[1]
        there = Preprocess(rotate=turn, resize=9).train(images.cuda(), seeded())[1]
        assert there.is_cuda
        torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"pad": -1}, ValueError, "pad must be 0 or more, got -1"),
        ({"pad": 1.5}, TypeError, "pad must be a whole number, got 1.5"),
        ({"pad": True}, TypeError, "got True"),
        ({"crop": 0}, ValueError, "crop must be 1 or more, got 0"),
        ({"crop": "28"}, TypeError, "crop .* got '28'"),
        ({"resize": 0}, ValueError, "resize must be 1 or more"),
        ({"rotate": -1}, ValueError, "0 to 180 degrees .* not -1"),
        ({"rotate": 181}, ValueError, "not 181"),
        ({"rotate": math.nan}, ValueError, "not nan"),
        ({"rotate": "10"}, TypeError, "rotate must be a number, got '10'"),
        ({"standardise": 1}, TypeError, "standardise must be True or False"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, error, says):
    with pytest.raises(error, match=says):
        Preprocess(**changes)


def test_a_crop_larger_than_the_padded_image_is_refused():
    images = torch.zeros(1, 1, 28, 30, dtype=torch.uint8)
    for view in (lambda p: p.train(images, seeded()), lambda p: p.evaluate(images)):
        assert view(Preprocess(pad=2, crop=32))[0].shape == (1, 1, 32, 32)
        with pytest.raises(ValueError, match=r"crop=33 does not fit into images of 28x30 .* crop <= 32"):
            view(Preprocess(pad=2, crop=33))


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.zeros(1, 1, 4, 4), TypeError, "uint8 tensor .* not torch.float32"),
        ([[0]], TypeError, "not list"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), ValueError, r"\[B, C, H, W\], not shape \[1, 4, 4\]"),
    ],
)
def test_images_of_another_kind_are_refused(images, error, says):
    with pytest.raises(error, match=says):
        Preprocess().evaluate(images)
    with pytest.raises(error, match=says):
        Preprocess().train(images, seeded())


def test_a_seed_is_not_a_generator():
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, not int"):
        Preprocess().train(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 0)
