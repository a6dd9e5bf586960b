import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import cosine_similarity, logsigmoid

from baselines.conditioned_unet import ConditionedUNet
from baselines.freedom import SampledGraph
from baselines.graph import bipartite_adjacency, normalize_symmetric
from baselines.item_diffusion import ItemDiffusion, choose_edges
from baselines.mcdrec import MCDRecBM3, MCDRecFREEDOM
from ld4mrec.diffusion import posterior_mean_weights

N_USERS, N_ITEMS = 40, 30
MODELS = [MCDRecBM3, MCDRecFREEDOM]
# Everything random in a step but the noise of the diffusion.
CALM = {"embedding_dim": 4, "network_dropout": 0.0, "diffusion_steps": 3}


def build(cls, interactions, features, **settings):
    torch.manual_seed(0)
    return cls(interactions, features, **{**CALM, **settings})


def diffusion(**settings):
    defaults = {
        "diffusion_steps": 20,
        "noise_min": 1e-4,
        "noise_max": 0.02,
        "share": 0.3,
        "dropout": 0.0,
        "denoised": "all",
        "center": False,
        "detach_target": False,
    }
    torch.manual_seed(0)
    return ItemDiffusion(16, 2, **{**defaults, **settings})


def test_schedule_of_the_defaults():
    kept = 1.0 - diffusion().variances
    assert kept[0].item() == pytest.approx(0.9999, abs=1e-5)
    assert kept[-1].item() == pytest.approx(0.8168, abs=1e-4)


def test_network_has_the_published_size_less_two_output_channels():
    network = ConditionedUNet(8, 2, 20, 0.1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 137_667 - 2 * (8 * 9 + 1)


@pytest.mark.parametrize("side", [2, 4, 6, 8, 16])
def test_network_takes_any_side_and_uses_all_it_is_given(side):
    torch.manual_seed(0)
    network = ConditionedUNet(side, 2, 5, 0.0)
    noisy, *conditions = (torch.randn(3, side * side, requires_grad=True) for _ in range(3))
    estimate = network(noisy, conditions, torch.tensor([0, 4, 4]))
    assert estimate.shape == noisy.shape
    for gradient in torch.autograd.grad(estimate.square().sum(), [noisy, *conditions]):
        assert gradient.abs().sum() > 0
    other = network(noisy, conditions, torch.tensor([1, 4, 4]))
    assert torch.allclose(other[1:], estimate[1:], atol=1e-5)
    assert not torch.allclose(other[0], estimate[0], atol=1e-6)


def test_every_parameter_has_a_gradient():
    network = ConditionedUNet(8, 1, 3, 0.0)
    network(torch.randn(5, 64), [torch.randn(5, 64)], torch.tensor([0, 1, 2, 0, 1])).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_steps_come_with_their_mirror_image():
    drawn = diffusion(diffusion_steps=7).draw_steps(11)
    assert drawn.shape == (11,)
    assert torch.equal(drawn[6:], 6 - drawn[:5])
    assert drawn.min() >= 0
    assert drawn.max() <= 6


def test_estimate_fusion_and_loss_by_the_equations(monkeypatch):
    module = diffusion(diffusion_steps=4)
    q = torch.randn(9, 16, requires_grad=True)
    conditions, noise = [torch.randn(9, 16), torch.randn(9, 16)], torch.randn(9, 16)
    steps = torch.arange(9) % 4
    monkeypatch.setattr(module, "draw_steps", lambda n: steps)
    monkeypatch.setattr(torch, "randn_like", lambda _: noise.clone())
    fused, loss = module(q, conditions, torch.tensor([0]))
    variance = module.variances[steps][:, None]
    estimate = module.unet((1 - variance).sqrt() * q + variance.sqrt() * noise, conditions, steps)
    first, second, last = (module.mlp[place] for place in (0, 3, 6))
    hidden = torch.cat((0.3 * estimate + 0.7 * q, *conditions), dim=1)
    expected = last(second(first(hidden).relu()).relu())
    assert torch.allclose(fused, expected, atol=1e-5)
    error = (q - estimate).square().mean()
    assert loss.item() == pytest.approx(error.item(), rel=1e-5)
    total, wanted = fused.square().sum() + loss, expected.square().sum() + error
    assert torch.allclose(torch.autograd.grad(total, q)[0], torch.autograd.grad(wanted, q)[0], atol=1e-4)


def test_centered_inputs_have_no_mean_and_differ_by_nothing_else():
    q, conditions = torch.randn(9, 16), [torch.randn(9, 16), torch.randn(9, 16)]
    plain, centered = (diffusion(center=center).fuse(q, q, conditions) for center in (False, True))
    assert torch.allclose(centered, plain - plain.mean(dim=0), atol=1e-6)
    assert plain.mean(dim=0).abs().max() > 1e-3


def test_blocks_give_what_all_items_at_once_give(monkeypatch):
    q, conditions = torch.randn(9, 16, requires_grad=True), [torch.randn(9, 16), torch.randn(9, 16)]
    found = []
    for size in (100, 4):
        module = diffusion(diffusion_steps=4)
        monkeypatch.setattr("baselines.item_diffusion.BLOCK", size)
        torch.manual_seed(1)
        fused, loss = module(q, conditions, torch.tensor([0]))
        total = fused.square().sum() + loss
        found.append((total, *torch.autograd.grad(total, [q, *module.parameters()], allow_unused=True)))
    for whole, blocked in zip(*found, strict=True):
        assert (whole is None) == (blocked is None)
        assert whole is None or torch.allclose(whole, blocked, atol=1e-4, rtol=1e-4)


def test_blocks_are_computed_twice_with_the_same_dropout(monkeypatch):
    q, conditions = torch.randn(9, 16, requires_grad=True), [torch.randn(9, 16), torch.randn(9, 16)]
    module, passes = diffusion(dropout=0.5), []
    module.unet.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    monkeypatch.setattr("baselines.item_diffusion.BLOCK", 4)

    def gradients():
        torch.manual_seed(1)
        return torch.autograd.grad(module.estimate(q, conditions).square().sum(), [q, *module.unet.parameters()])

    found = gradients()
    assert sorted(passes) == [1, 1, 4, 4, 4, 4]
    monkeypatch.setattr("baselines.item_diffusion.checkpoint", lambda unet, *given, use_reentrant: unet(*given))
    for gradient, other in zip(found, gradients(), strict=True):
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-4)


def test_a_detached_target_does_not_pull_at_the_embeddings(monkeypatch):
    q, conditions = torch.randn(9, 16, requires_grad=True), [torch.zeros(9, 16), torch.zeros(9, 16)]
    for detach in (False, True):
        module = diffusion(detach_target=detach)
        monkeypatch.setattr(module, "estimate", lambda items, conditions: torch.ones(9, 16, requires_grad=True))
        _, loss = module(q, conditions, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(loss, q, allow_unused=True, materialize_grads=True)
        assert torch.allclose(gradient, torch.zeros(9, 16) if detach else 2 * (q - 1) / q.numel(), atol=1e-6)


def test_batch_mode_estimates_the_batch_with_a_gradient_and_keeps_the_rest():
    module = diffusion(denoised="batch", share=1.0)
    module.mlp = torch.nn.Identity()
    q, conditions = torch.randn(9, 16, requires_grad=True), [torch.randn(9, 16), torch.randn(9, 16)]
    module.begin_epoch(q, conditions)
    before = module._estimates
    fused, loss = module(q, conditions, torch.tensor([4, 1, 4]))
    estimates = fused[:, :16]
    others = torch.tensor([0, 2, 3, 5, 6, 7, 8])
    assert torch.allclose(estimates[others], before[others], atol=1e-6)
    assert not torch.allclose(estimates[[1, 4]], before[[1, 4]], atol=1e-4)
    assert loss.item() == pytest.approx((estimates - q)[[1, 4]].square().mean().item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(estimates.sum(), q)
    assert (gradient.abs().sum(dim=1) > 1e-6).nonzero()[:, 0].tolist() == [1, 4]
    assert torch.equal(module._estimates, estimates.detach())
    assert not module._estimates.requires_grad


def test_generation_walks_all_steps(monkeypatch):
    module = diffusion(diffusion_steps=3)
    q, conditions = torch.randn(9, 16), [torch.randn(9, 16), torch.randn(9, 16)]
    found = module.generate(q, conditions)
    noise = torch.Generator().manual_seed(int(module.generation_seed))
    betas = torch.linspace(1e-4, 0.02, 3)
    kept = torch.cumprod(1 - betas, 0)
    x = kept[-1].sqrt() * q + (1 - kept[-1]).sqrt() * torch.randn(9, 16, generator=noise)
    with torch.no_grad():
        for step in (2, 1, 0):
            estimate = module.unet.eval()(x, conditions, torch.full((9,), step))
            of_0, of_t = (weights[step].float() for weights in posterior_mean_weights(1 - kept))
            x = of_0 * estimate + of_t * x
            if step:
                deviation = (betas[step] * (1 - kept[step - 1]) / (1 - kept[step])).sqrt()
                x = x + deviation * torch.randn(9, 16, generator=noise)
    assert torch.allclose(found, x, atol=1e-4)


def test_generation_repeats_until_the_parameters_change():
    module = diffusion(diffusion_steps=2, dropout=0.5)
    q, conditions = torch.randn(9, 16), [torch.randn(9, 16), torch.randn(9, 16)]
    first = module.generate(q, conditions)
    assert module.unet.training
    module.forget()
    assert torch.equal(module.generate(q, conditions), first)
    module(q, conditions, torch.tensor([0]))
    with torch.no_grad():
        module.unet.last.bias.add_(1.0)
    assert not torch.allclose(module.generate(q, conditions), first)
    changed = {name: value + 0.1 for name, value in module.state_dict().items() if value.is_floating_point()}
    before = module.generate(q, conditions)
    module.load_state_dict(changed, strict=False)
    assert not torch.allclose(module.generate(q, conditions), before)


@pytest.mark.parametrize("order", ["drop_first", "weigh_first"])
def test_kept_edges_are_normalized_by_similar_degrees(interactions, order):
    torch.manual_seed(2)
    graph = SampledGraph(interactions)
    users, items = torch.randn(N_USERS, 4), torch.randn(N_ITEMS, 4)
    choose_edges(graph, users, items, 100, 0.3, order)
    dense = graph.propagate(torch.eye(N_USERS + N_ITEMS))
    block = dense[:N_USERS, N_USERS:]
    assert int((block > 0).sum()) == 100
    assert torch.allclose(dense, dense.T)
    assert not ((block > 0) & (torch.from_numpy(interactions.toarray()) == 0)).any()
    counts = (block > 0) * (1 + 0.3 * cosine_similarity(users[:, None], items[None], dim=2))
    expected = counts.sum(1)[:, None].clamp_min(1e-9).rsqrt() * counts.sum(0)[None].clamp_min(1e-9).rsqrt()
    assert torch.allclose(block[block > 0], expected[block > 0], atol=1e-5)


@pytest.mark.parametrize(("order", "share"), [("drop_first", 0.5), ("weigh_first", 0.25)])
def test_similarity_enters_the_draw_in_the_papers_order_only(order, share):
    # Two users with an item each, and both edges alike but for their similarity: +1 counts 1.5, -1 counts 0.5.
    graph = SampledGraph(csr_array(torch.eye(2).numpy()))
    users, items = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    torch.manual_seed(0)
    first = 0
    for _ in range(1000):
        choose_edges(graph, users, items, 1, 0.5, order)
        first += int(graph.propagate(torch.eye(4))[0, 2] > 0)
        graph = SampledGraph(csr_array(torch.eye(2).numpy()))
    # Weights are 1 / sqrt(d_u d_i): 1/1.5 against 1/0.5, which is 1 to 3.
    assert first / 1000 == pytest.approx(share, abs=0.06)


def full_graph(interactions):
    return torch.from_numpy(normalize_symmetric(bipartite_adjacency(interactions)).toarray())


def inputs_of(model, features, estimates):
    conditions = model.conditions()
    q = model.embedding[N_USERS:]
    return model.diffusion.mlp(torch.cat((torch.lerp(q, estimates, 0.3), *conditions), dim=1))


@pytest.mark.parametrize("cls", MODELS)
def test_scores_by_the_equations(cls, interactions, features):
    model = build(cls, interactions, features, n_layers=2).eval()
    a, q = full_graph(interactions), model.embedding[N_USERS:]
    with torch.no_grad():
        generated = model.diffusion.generate(q, model.conditions())
        nodes = torch.cat((model.embedding[:N_USERS], inputs_of(model, features, generated)))
        nodes = (nodes + a @ nodes + a @ a @ nodes) / 3
        if cls is MCDRecBM3:
            users, items = model.predictor(nodes[:N_USERS]), model.predictor(nodes[N_USERS:] + q)
        else:
            users, items = nodes[:N_USERS], nodes[N_USERS:] + model.item_graph.propagate(torch.eye(N_ITEMS)) @ q
        wanted = users[[9, 0, 5]] @ items.T
        assert torch.allclose(model.score(torch.tensor([9, 0, 5])), wanted, atol=1e-5)
        model.begin_scoring()
        assert torch.allclose(model.score(torch.tensor([9, 0, 5])), wanted, atol=1e-5)


def training_forward(model, features, interactions, seed):
    """(final users, final items, L_dm, conditions) with the noise that follows `seed`, by dense products."""
    torch.manual_seed(seed)
    q, conditions = model.embedding[N_USERS:], model.conditions()
    estimates = model.diffusion.estimate(q, conditions)
    a = model.sampled_graph.propagate(torch.eye(N_USERS + N_ITEMS))
    nodes = torch.cat((model.embedding[:N_USERS], inputs_of(model, features, estimates)))
    nodes = (nodes + a @ nodes) / 2
    return nodes[:N_USERS], nodes[N_USERS:], (q - estimates).square().mean(), conditions


def check_loss(model, batch, expected, seed):
    torch.manual_seed(seed)
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    for gradient, other in zip(found, wanted, strict=True):
        assert torch.allclose(gradient, other, atol=2e-5)


def test_bm3_loss_and_gradient_by_the_equations(interactions, features, batch):
    model = build(MCDRecBM3, interactions, features, n_layers=1, dropout=0.0, cl_weight=1.7, reg_weight=0.4)
    model.begin_epoch(1)
    g_u, g_i, error, conditions = training_forward(model, features, interactions, 3)
    q = model.embedding[N_USERS:]
    h_i = g_i + q

    def mismatch(prediction, target):
        return 1 - cosine_similarity(model.predictor(prediction), target.detach(), dim=1).mean()

    u, i = g_u[batch.users], h_i[batch.positives]
    expected = mismatch(u, i) + mismatch(i, u)
    for table in conditions:
        x = table[batch.positives]
        expected = expected + 1.7 * (mismatch(x, q[batch.positives]) + mismatch(x, x))
    expected = expected + 0.4 * (g_u.norm() + h_i.norm()) / N_ITEMS + 0.5 * error
    check_loss(model, batch, expected, 3)


@pytest.mark.parametrize("reg_weight", [0.0, 0.3])
def test_freedom_loss_and_gradient_by_the_equations(interactions, features, batch, reg_weight):
    model = build(MCDRecFREEDOM, interactions, features, n_layers=1, reg_weight=reg_weight, edge_dropout=0.5)
    model.begin_epoch(1)
    g_u, g_i, error, conditions = training_forward(model, features, interactions, 3)
    items = g_i + model.item_graph.propagate(torch.eye(N_ITEMS)) @ model.embedding[N_USERS:]

    def bpr(table):
        u, i, j = g_u[batch.users], table[batch.positives], table[batch.negatives]
        return -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()

    expected = bpr(items) + reg_weight * sum(bpr(table) for table in conditions) + 0.5 * error
    check_loss(model, batch, expected, 3)


@pytest.mark.parametrize("cls", MODELS)
def test_edges_follow_what_was_generated_after_the_first_epoch(cls, interactions, features, monkeypatch):
    model = build(cls, interactions, features)
    given = []
    monkeypatch.setattr("baselines.mcdrec.choose_edges", lambda graph, users, items, *_: given.append(items))
    model.begin_epoch(1)
    model.begin_epoch(2)
    q = model.embedding[N_USERS:]
    assert torch.equal(given[0], q)
    assert torch.equal(given[1], model.diffusion.generate(q, model.conditions()))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("denoised", ["all", "batch"])
def test_scoring_leaves_no_trace_in_training(cls, denoised, interactions, features, batch):
    def losses(scored):
        model = build(cls, interactions, features, denoised=denoised)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        torch.manual_seed(4)
        values = []
        for epoch in (1, 2, 3):
            model.begin_epoch(epoch)
            optimizer.zero_grad()
            loss = model.loss(batch)
            loss.backward()
            optimizer.step()
            values.append(loss.item())
            if scored:
                model.begin_scoring()
        return values

    assert losses(False) == losses(True)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("names", [["visual"], ["visual", "text", "third.one"]])
def test_any_modalities_stay_finite_and_reload(cls, names, interactions, features, batch):
    features["third.one"] = torch.zeros(N_ITEMS, 3)
    chosen = {name: features[name] for name in names}
    model, fresh = build(cls, interactions, chosen, edge_dropout=0.9, embedding_dim=16), None
    model.begin_epoch(1)
    loss = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    fresh = cls(interactions, chosen, **{**CALM, "embedding_dim": 16})
    fresh.begin_scoring()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        fresh.begin_scoring()
        model.begin_scoring()
        assert torch.equal(fresh.score(torch.arange(9)), model.score(torch.arange(9)))
        assert torch.isfinite(model.score(torch.arange(N_USERS))).all()


@pytest.mark.parametrize("cls", MODELS)
def test_state_dict_holds_parameters_and_the_seed_of_generation(cls, interactions, features):
    model = build(cls, interactions, features)
    names = {name for name, _ in model.named_parameters()}
    assert set(model.state_dict()) == names | {"diffusion.generation_seed"}


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"embedding_dim": 48}, "square of an even number, found 48"),
        ({"embedding_dim": 9}, "square of an even number, found 9"),
        ({"noise_min": 0.1, "noise_max": 0.01}, r"noise_min <= noise_max, found 0\.1 > 0\.01"),
    ],
)
def test_contradictions_are_refused(cls, interactions, features, wrong, message):
    with pytest.raises(ValueError, match=message):
        cls(interactions, features, **wrong)


@pytest.mark.parametrize("cls", MODELS)
def test_features_are_asked_for(cls, interactions):
    with pytest.raises(ValueError, match="at least one modality"):
        cls(interactions, {})
