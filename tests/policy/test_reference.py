"""The reference's place: a copy that waits on the CPU is on the device for its turn alone."""

from __future__ import annotations

import torch

from locus.policy.lora import LoRA
from locus.policy.reference import AdaptersOff, FrozenCopy, OffloadedCopy, reference_of
from tests.support.models import backbone, prompts, tiny_vlm


def test_an_offloaded_copy_keeps_its_weights():
    """Weights lost or left behind on the device, a buffer that is forgotten, or tied ones that come apart."""
    vlm = tiny_vlm("qwen3_vl")
    before, expected = {n: one.clone() for n, one in vlm.state_dict().items()}, vlm.encode(prompts("qwen3_vl")).hidden
    reference = OffloadedCopy(vlm)
    for _ in range(2):
        with reference.on(torch.device("meta")) as there:  # a device whose copy can give nothing back
            assert {one.device.type for one in (*there.parameters(), *there.buffers())} == {"meta"}
            assert not any(one.requires_grad for one in there.parameters())
            assert there.lm_head.weight is there.model.get_input_embeddings().weight
        with reference.on(torch.device("meta")) as again:
            assert again is there  # moved once in a turn
        reference.rest()
    with reference.on(torch.device("cpu")) as here, torch.no_grad():
        assert all(torch.equal(one, before[name]) for name, one in here.state_dict().items())
        assert here.lm_head.weight.data_ptr() == vlm.lm_head.weight.data_ptr()  # no second copy where it is at home
        assert torch.equal(here.encode(prompts("qwen3_vl")).hidden, expected)


def test_which_reference_a_policy_has():
    """A copy of a policy that needs none, or one that stays although it was to leave."""
    own = backbone("qwen3_vl")
    policy = own.load()
    assert type(reference_of(policy, own.load)) is FrozenCopy
    assert type(reference_of(policy, own.load, offload=True)) is OffloadedCopy
    LoRA(2)(policy)
    assert type(reference_of(policy, own.load, offload=True)) is AdaptersOff
