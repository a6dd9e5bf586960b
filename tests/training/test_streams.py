import torch

from bench.training.streams import borrowed, derive, generator

CPU = torch.device("cpu")


def test_purposes_and_seeds_give_different_streams():
    seeds = {derive(seed, purpose) for seed in (1, 2, 3) for purpose in ("init", "shuffle", "negatives", "noise")}
    assert len(seeds) == 12


def test_derived_seeds_are_the_same_on_every_machine():
    assert derive(1, "init") == 9026945870587435849


def test_borrowed_restores_the_global_state():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with borrowed(7, "init", CPU):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with borrowed(7, "init", CPU):
        assert torch.equal(torch.rand(3), first)


def test_generators_of_one_purpose_repeat():
    a, b = (torch.rand(4, generator=generator(3, "shuffle", CPU)) for _ in range(2))
    assert torch.equal(a, b)
