"""Self-critical training: the advantage, the probabilities behind the gradient, and that rewards rise."""

import pytest
import torch

from tests.tiny import tiny_clip, tiny_model, tiny_processor
from vidcap.training.objectives.self_critical import CiderReward, SelfCriticalLoss, leave_one_out_advantage


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def inputs(processor):
    return dict(processor(videos=[tiny_clip(0), tiny_clip(1)], return_tensors="pt"))


def count_red(captions, references):
    return [float(caption.split().count("red")) for caption in captions]


def test_advantage_is_the_reward_less_that_of_the_others():
    advantage = leave_one_out_advantage(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(advantage, torch.tensor([[-3.0, -1.5, 4.5]]))
    assert not leave_one_out_advantage(torch.full((2, 4), 7.0)).any(), "equal captions teach nothing"


def test_probabilities_are_those_of_the_sampler(inputs):
    model = tiny_model(initializer_range=0.2)
    model.generation_config.suppress_tokens = [3, 1]
    torch.manual_seed(0)
    output = model.generate(
        **inputs,
        do_sample=True,
        top_k=0,
        num_return_sequences=3,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_scores=True,
    )
    expected = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    encoded = model.model.encoder(**inputs)
    found, mask = model.get_token_log_probabilities(output.sequences, encoded, suppress_tokens=[3, 1])
    torch.testing.assert_close(found * mask, expected * mask, rtol=1e-4, atol=1e-5)
    assert found.requires_grad and mask[:, 0].all()


def test_rewarded_words_become_frequent(processor, inputs):
    model = tiny_model(initializer_range=0.1).train()
    model.generation_config.max_new_tokens = 6
    loss = SelfCriticalLoss(processor, count_red, samples=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    rewards = []
    for _ in range(40):
        optimizer.zero_grad()
        loss(model, inputs, [["a red star"]] * 2).backward()
        optimizer.step()
        rewards.append(loss.last_reward)
    assert model.training
    assert sum(rewards[-5:]) / 5 > 2 > sum(rewards[:5]) / 5


def test_one_sample_cannot_be_compared(processor):
    with pytest.raises(ValueError, match="samples 1 must be at least 2"):
        SelfCriticalLoss(processor, count_red, samples=1)


def test_cider_rewards_the_truth_most():
    truths = [["a red star grows"], ["a blue circle spins and then grows"], ["the cat runs"]]
    reward = CiderReward(truths)
    right, near, wrong = reward(["a red star grows", "a red star spins", "the cat runs"], [truths[0]] * 3)
    assert right > near > wrong == 0


def test_captions_are_drawn_as_the_model_is_trained_whatever_it_is_set_to_generate_by() -> None:
    model, drawn = tiny_model(video_dropout=0.1), []

    def reward(captions, references):
        drawn.append(captions)
        return [float(index) for index in range(len(captions))]

    own = {"num_beams": 4, "temperature": 0.01, "no_repeat_ngram_size": 1, "guidance_scale": 3.0, "max_new_tokens": 8}
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    inputs = dict(tiny_processor()(videos=[tiny_clip(0)]))
    torch.manual_seed(0)
    SelfCriticalLoss(tiny_processor(), reward, samples=12)(model, inputs, [["a red circle"]])
    assert len(set(drawn[0])) > 6  # at that temperature they would be equal
    assert {name: getattr(model.generation_config, name) for name in own} == own
