import math
import types

import pytest
import torch
import torch.nn.functional as F

import lucidlm
from lucidlm.model.loss import log_softmax, softmax
from lucidlm.model.presets import preset

# "every effort moves", "I really like" -> " effort moves you", " really like chocolate"
INPUTS = torch.tensor([[16833, 3626, 6100], [40, 1107, 588]])
TARGETS = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])

# Measured with plain PyTorch modules in float32.
ARGMAX = [[16657, 339, 42826], [49906, 29669, 41751]]
PROBABILITIES = [
    [7.454046668e-05, 3.106057957e-05, 1.15627876e-05],
    [1.033667327e-05, 5.677592449e-05, 4.755931835e-06],
]
PRINTED_PROBABILITIES = ["7.4540e-05", "3.1061e-05", "1.1563e-05", "1.0337e-05", "5.6776e-05", "4.7559e-06"]
PRINTED_LOGARITHMS = ["-9.5042", "-10.3796", "-11.3677", "-11.4798", "-9.7764", "-12.2561"]
LOSS, PERPLEXITY = 10.79396444, 48725.824215


@pytest.fixture(scope="module")
def lecture() -> types.SimpleNamespace:
    """The untrained model's size, and its logits for both texts."""
    torch.manual_seed(123)
    model = lucidlm.GPT(preset("lecture").shape).eval()
    with torch.no_grad():
        return types.SimpleNamespace(n_parameters=model.n_parameters, logits=model(INPUTS))


@pytest.fixture(scope="module")
def target_probabilities(lecture):
    return softmax(lecture.logits).gather(-1, TARGETS[..., None])[..., 0]


def test_the_lectures_model_has_162_419_712_parameters(lecture):
    assert lecture.n_parameters == preset("lecture").shape.n_parameters == 162_419_712


def test_logits_and_probabilities_have_a_number_for_each_token_of_the_vocabulary(lecture):
    assert lecture.logits.shape == softmax(lecture.logits).shape == (2, 3, 50257)
    torch.testing.assert_close(softmax(lecture.logits).sum(-1), torch.ones(2, 3), atol=1e-5, rtol=0)


def test_the_likeliest_tokens_are_the_lectures(lecture):
    assert lecture.logits.argmax(-1).tolist() == ARGMAX
    assert softmax(lecture.logits).argmax(-1).tolist() == ARGMAX


def test_the_targets_probabilities_are_the_lectures_to_the_printed_digit(target_probabilities):
    # Logits of about 1 carry an error of a few 1e-7, and 7.45405e-05, where the digit changes, is 5e-7 away.
    for p, printed in zip(target_probabilities.flatten().tolist(), PRINTED_PROBABILITIES, strict=True):
        assert printed in {f"{p * near:.4e}" for near in (1 - 1.5e-6, 1, 1 + 1.5e-6)}
    torch.testing.assert_close(target_probabilities, torch.tensor(PROBABILITIES), rtol=3e-6, atol=0)


def test_their_logarithms_and_mean_are_the_lectures_to_the_printed_digit(lecture, target_probabilities):
    logarithms = log_softmax(lecture.logits).gather(-1, TARGETS[..., None])[..., 0]
    assert [f"{x:.4f}" for x in logarithms.flatten().tolist()] == PRINTED_LOGARITHMS
    assert [f"{x:.4f}" for x in target_probabilities.log().flatten().tolist()] == PRINTED_LOGARITHMS
    assert f"{logarithms.mean().item():.4f}" == "-10.7940"


def test_the_cross_entropy_is_10_7940_by_every_path(lecture, target_probabilities):
    by_hand = -target_probabilities.log().mean()
    ours = lucidlm.cross_entropy(lecture.logits, TARGETS).mean()
    flat, flat_targets = lecture.logits.flatten(0, 1), TARGETS.flatten()
    assert (flat.shape, flat_targets.shape) == ((6, 50257), (6,))
    for loss in (by_hand, ours, F.cross_entropy(flat, flat_targets)):
        assert f"{loss.item():.4f}" == "10.7940"
        assert loss.item() == pytest.approx(LOSS, abs=3e-6)  # three float32 steps at 10.8


def test_the_perplexity_is_48725_8(lecture):
    loss = lucidlm.cross_entropy(lecture.logits, TARGETS).mean()
    # One float32 step of the loss is 0.046 of perplexity.
    assert lucidlm.perplexity(loss) == pytest.approx(PERPLEXITY, abs=0.1)
    assert lucidlm.perplexity(loss) == pytest.approx(math.exp(loss.item()))


def test_the_lectures_ids_are_gpt2s_and_its_outputs_decode_as_printed():
    tokenizer = lucidlm.Tokenizer.gpt2()
    assert tokenizer.encode("every effort moves") == INPUTS[0].tolist()
    assert tokenizer.encode("I really like") == INPUTS[1].tolist()
    assert tokenizer.decode(TARGETS[0].tolist()) == " effort moves you"
    assert tokenizer.decode(TARGETS[1].tolist()) == " really like chocolate"
    assert tokenizer.decode(ARGMAX[0]) == " Armed heNetflix"
    assert tokenizer.decode(ARGMAX[1]) == " pressuring empoweredfaith"
