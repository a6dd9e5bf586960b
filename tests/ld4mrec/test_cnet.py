"""The blocks of C-Net against the equations written out."""

import pytest
import torch

from ld4mrec.cnet import CGBlock, CNet, InputLayer, PGBlock, StepLayer

B, D, STEP, SIGNAL = 6, 8, 4, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(*widths):
    return [torch.randn(B, width) for width in widths]


def train_mlps_a_little(block):
    """Move the MLPs away from their constant start."""
    with torch.no_grad():
        for mlp in (*block.scales, *block.shifts):
            mlp[-1].weight.normal_()


def test_first_layer_maps_lists_of_items_like_dense_rows():
    layer = InputLayer(7, D)
    torch.nn.init.normal_(layer.bias)
    dense = torch.tensor([[0, 1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]).float()
    rows, items = dense.nonzero(as_tuple=True)
    assert torch.allclose(layer.from_items(rows, items, 3), layer(dense), atol=1e-6)
    assert torch.allclose(layer(dense), dense @ layer.weight + layer.bias, atol=1e-6)


def test_the_two_blocks_of_w_1_equal_one_matrix_on_the_concatenation():
    layer = StepLayer(D, STEP)
    torch.nn.init.normal_(layer.w_1h.bias)
    h, z = inputs(D, STEP)
    w_1 = torch.cat((layer.w_1h.weight, layer.w_1z.weight), dim=1)
    assert w_1.shape == (D, D + STEP)
    expected = torch.tanh(torch.cat((h, z), dim=1) @ w_1.T + layer.w_1h.bias)
    assert torch.allclose(layer(h, z), expected, atol=1e-6)


@pytest.mark.parametrize(("bias", "share"), [(-1e4, 0.0), (1e4, 1.0)])
def test_a_closed_gate_keeps_own_behavior_and_an_open_one_takes_the_signal(bias, share):
    block = CGBlock(D, STEP, SIGNAL)
    torch.nn.init.constant_(block.w_3.bias, bias)
    h, z, c = inputs(D, STEP, SIGNAL)
    own, shared = block.own(h, z), torch.tanh(block.w_2(c))
    assert torch.all(block.gate(z) == share)
    assert torch.allclose(block(h, z, c), shared if share else own, atol=1e-6)


def test_a_half_open_gate_mixes_as_eq_20_says():
    block = CGBlock(D, STEP, SIGNAL)
    h, z, c = inputs(D, STEP, SIGNAL)
    g = torch.sigmoid(z @ block.w_3.weight.T + block.w_3.bias)
    expected = block.own(h, z) * (1 - g) + torch.tanh(c @ block.w_2.weight.T + block.w_2.bias) * g
    assert torch.allclose(block(h, z, c), expected, atol=1e-6)


def test_an_untrained_pg_block_with_one_modality_changes_nothing():
    block = PGBlock(D, [3], mlp_dim=7)
    h, m = inputs(D, 3)
    assert torch.equal(block(h, [m]), h)


def test_an_untrained_pg_block_with_two_modalities_is_only_the_activation_between_them():
    block = PGBlock(D, [3, 2], mlp_dim=7)
    h, text, image = inputs(D, 3, 2)
    assert torch.equal(block(h, [text, image]), torch.where(h > 0, h, 0.2 * h))


def test_pg_block_scales_and_shifts_modality_by_modality():
    block = PGBlock(D, [3, 2], mlp_dim=7)
    train_mlps_a_little(block)
    h, text, image = inputs(D, 3, 2)
    after_text = block.scales[0](text) * h + block.shifts[0](text)
    between = torch.where(after_text > 0, after_text, 0.2 * after_text)
    expected = block.scales[1](image) * between + block.shifts[1](image)
    assert torch.allclose(block(h, [text, image]), expected, atol=1e-6)


def test_pg_blocks_start_to_learn_from_their_identity():
    block = PGBlock(D, [3], mlp_dim=7)
    h, m = inputs(D, 3)
    block(h, [m]).square().sum().backward()
    assert block.scales[0][-1].weight.grad.abs().sum() > 0
    assert block.shifts[0][-1].weight.grad.abs().sum() > 0


def test_cnet_stacks_cg_pg_cg_pg_with_activations_between():
    net = CNet(9, D, STEP, SIGNAL, [3], mlp_dim=7)
    for block in net.pg_blocks:
        train_mlps_a_little(block)
    h, z, c, m = inputs(D, STEP, SIGNAL, 3)
    expected = net.cg_blocks[0](h, z, c)
    expected = net.pg_blocks[0](torch.nn.functional.leaky_relu(expected, 0.2), [m])
    expected = net.cg_blocks[1](torch.nn.functional.leaky_relu(expected, 0.2), z, c)
    expected = net.pg_blocks[1](torch.nn.functional.leaky_relu(expected, 0.2), [m])
    assert torch.allclose(net(h, z, [c], [m]), net.fc_out(expected), atol=1e-6)


def test_variants_leave_their_blocks_out():
    full = CNet(9, D, STEP, SIGNAL, [3], mlp_dim=7)
    without_cg = CNet(9, D, STEP, 0, [3], mlp_dim=7)
    without_pg = CNet(9, D, STEP, SIGNAL, [], mlp_dim=7)
    assert [type(block) for block in full.cg_blocks] == [CGBlock, CGBlock]
    assert [type(block) for block in without_cg.cg_blocks] == [StepLayer, StepLayer]
    assert (len(full.pg_blocks), len(without_cg.pg_blocks), len(without_pg.pg_blocks)) == (2, 2, 0)
    h, z, c, m = inputs(D, STEP, SIGNAL, 3)
    assert without_cg(h, z, [], [m]).shape == without_pg(h, z, [c], []).shape == (B, 9)


@pytest.mark.parametrize(("mlp_dim", "millions"), [(256, 21.9), (1000, 32.4)])
def test_size_on_the_papers_first_dataset(mlp_dim, millions):
    # TMALL has 13,114 users and 7,840 items; text and image features of width 768 each are assumed.
    with torch.device("meta"):
        net = CNet(7840, 1000, 10, 200, [768, 768], mlp_dim)
    z_in = 13_114 * 10
    assert (sum(p.numel() for p in net.parameters()) + z_in) / 1e6 == pytest.approx(millions, abs=0.05)
