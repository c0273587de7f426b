"""Networks read from modules, noise through them, their folds, and settings for larger ones."""
import os
import tempfile
import unittest

import torch

import unbend

DOUBLE = torch.double


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = x + torch.relu(self.norm(self.second(x)))
        return self.last(x.mean((2, 3)))


def perceptron():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(),
                               torch.nn.Linear(8, 2)).double()


class Networks(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(2)

    def test_reading_a_module_and_a_file(self):
        net = Residual().double()
        x = torch.randn(2, 1, 6, 6, dtype=DOUBLE)
        read = unbend.Network(net, x)
        self.assertTrue(net.training)  # as it was
        net.eval()
        torch.testing.assert_close(read(x), net(x))
        self.assertTrue(any("first" in name for name in read.layers), read.layers)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "net.pt")
            torch.jit.save(torch.jit.trace(net, x), path)
            torch.testing.assert_close(unbend.Network.load(path)(x), net(x))
        with self.assertRaises(unbend.InputError):
            unbend.Network.load("/no/such/file.pt")

    def test_a_module_is_left_as_it_was(self):
        net = perceptron().train()
        net[1].eval()
        unbend.Network(net, torch.zeros(1, 3, dtype=DOUBLE))
        self.assertEqual([part.training for part in net], [True, False, True, True, True])

    def test_marginals_take_a_scale_alone(self):
        net = unbend.Network(perceptron(), torch.zeros(1, 3, dtype=DOUBLE))
        with self.assertRaisesRegex(unbend.InputError, "scale alone"):
            unbend.propagate(net, torch.zeros(1, 3, dtype=DOUBLE), scale=1., factor=torch.eye(3, dtype=DOUBLE), marginal=True)

    def test_noise_through_a_network(self):
        net, x = perceptron(), torch.randn(5, 3, dtype=DOUBLE)
        j = torch.func.vmap(torch.func.jacrev(net))(x)
        cov = torch.tensor([[.04, .01, 0], [.01, .09, 0], [0, 0, .01]], dtype=DOUBLE)
        expected = j @ cov @ j.mT
        for f in (unbend.Network(net, x), net):
            p = unbend.propagate(f, x, covariance=cov)
            torch.testing.assert_close(p.location, net(x))
            torch.testing.assert_close(p.covariance, expected)
            torch.testing.assert_close(p.scale, expected.diagonal(dim1=1, dim2=2).sqrt())
        low, high = p.intervals(.95)
        torch.testing.assert_close((high - low) / 2, 1.959964 * p.scale, rtol=1e-6, atol=0)
        self.assertTrue(torch.allclose(p.pairwise() + p.pairwise().mT, torch.ones(5, 2, 2, dtype=DOUBLE)))
        cauchy = unbend.propagate(net, x, scale=.1, law="cauchy")
        torch.testing.assert_close(cauchy.scale, .1 * j.abs().sum(2))
        with self.assertRaises(unbend.InputError):  # it has none
            cauchy.covariance
        own = torch.rand(5, 2, dtype=DOUBLE)
        torch.testing.assert_close(cauchy.with_own_noise(own).scale, cauchy.scale + own)
        with self.assertRaisesRegex(unbend.InputError, "negative"):
            cauchy.with_own_noise(-own)
        marginal = unbend.propagate(unbend.Network(net, x), x, scale=.1, marginal=True)
        torch.testing.assert_close(marginal.location, net(x))
        with self.assertRaises(unbend.InputError):
            unbend.propagate(net, x, scale=.1, marginal=True)
        with self.assertRaises(unbend.InputError):
            unbend.propagate(net, x)

    def test_losses_train_the_weights(self):
        net, x = perceptron(), torch.randn(6, 3, dtype=DOUBLE)
        labels = torch.randint(2, (6,))
        loss = unbend.propagate(net, x, scale=.3, create_graph=True).pairwise_loss(labels)
        loss.backward()
        w = net[0].weight
        self.assertGreater(w.grad.abs().max().item(), 0)
        with torch.no_grad():  # along one weight, by differences
            h, i = 1e-6, w.grad.abs().argmax()
            values = []
            for sign in (1, -1):
                w.view(-1)[i] += sign * h
                values.append(unbend.propagate(net, x, scale=.3).pairwise_loss(labels).item())
                w.view(-1)[i] -= sign * h
        self.assertAlmostEqual((values[0] - values[1]) / (2 * h), w.grad.view(-1)[i].item(), places=6)

    def test_local_complexity(self):
        net, probes = perceptron(), torch.randn(20, 3, dtype=DOUBLE)
        frame = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE))[0].mT.contiguous()
        found = unbend.local_complexity(unbend.Network(net, probes), probes, radius=.4, frame=frame)
        vertices = torch.cat([probes[:, None] + .4 * frame, probes[:, None] - .4 * frame], 1)
        z = net[0](vertices)
        first = (z.sign() != z.sign()[:, :1]).any(1).sum(1)
        z = net[2](torch.relu(z))
        second = (z.sign() != z.sign()[:, :1]).any(1).sum(1)
        self.assertEqual(len(found.layers), 2)
        self.assertTrue(torch.equal(found.layers[0].crossings, first))
        self.assertTrue(torch.equal(found.layers[1].crossings, second))
        self.assertTrue(torch.equal(found.total, first + second))
        self.assertAlmostEqual(found.mean, (first + second).double().mean().item())
        with self.assertRaises(unbend.InputError):
            unbend.local_complexity(unbend.Network(net, probes), probes, radius=0, directions=3)


class Parameterization(unittest.TestCase):
    def model(self, width, depth):
        block = {"norm": lambda: torch.nn.LayerNorm(width), "up": lambda: torch.nn.Linear(width, 4 * width),
                 "down": lambda: torch.nn.Linear(4 * width, width)}
        net = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(10, width), "final_norm": torch.nn.LayerNorm(width),
                                   "unembedding": torch.nn.Linear(width, 10, bias=False)})
        net["blocks"] = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: make() for name, make in block.items()}) for _ in range(depth))
        return net

    def test_rules_groups_and_start(self):
        net = self.model(64, 8)
        rules = unbend.parameterize(net, (64, 8), (16, 2), lr=2 ** -8, weight_decay=.1, init_std=.02)
        by_name = {r.name: r for r in rules.tensors}
        self.assertEqual(set(by_name), set(dict(net.named_parameters())))
        hidden = by_name["blocks.0.up.weight"]  # m_N = m_L = 4, alpha = 1
        self.assertEqual((hidden.role, hidden.lr, hidden.weight_decay), ("block_weight", 2 ** -10, .4))
        self.assertAlmostEqual(hidden.init_std, .01)
        self.assertAlmostEqual(hidden.eps, 1e-12 / 16)
        self.assertEqual(rules.residual_multiplier, .25)
        self.assertEqual(rules.logit_multiplier, .25)
        rules.initialize()
        self.assertAlmostEqual(net["blocks"][3]["down"].weight.std().item(), .01, delta=.001)
        self.assertTrue((net["final_norm"].weight == 1).all() and (net["blocks"][0]["up"].bias == 0).all())
        groups = rules.parameter_groups()
        torch.optim.AdamW(groups, betas=(.9, .95))
        self.assertEqual(sum(len(g["params"]) for g in groups), len(by_name))
        self.assertIn("blocks.0.up.weight", str(rules))

    def test_the_base_size_is_left_alone(self):
        for name in ("sp", "mup", "depth-mup", "completep"):
            rules = unbend.parameterize(self.model(16, 2), (16, 2), (16, 2), name=name)
            self.assertEqual({r.lr for r in rules.tensors}, {2 ** -8})
            self.assertEqual(rules.residual_multiplier, 1)

    def test_bad_input(self):
        named = {"mystery": torch.ones(2, 2)}
        with self.assertRaisesRegex(unbend.InputError, "mystery"):
            unbend.parameterize(named, (16, 2), (16, 2))
        rules = unbend.parameterize(named, (16, 2), (16, 2), roles={"mystery": "block_weight"})
        self.assertEqual(rules.tensors[0].role, "block_weight")
        with self.assertRaises(unbend.InputError):
            unbend.parameterize(self.model(16, 2), (16,), (16, 2))


if __name__ == "__main__":
    unittest.main()
