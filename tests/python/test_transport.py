"""Transport beside linear programs, assignments, plain formulas and finite differences."""
import unittest

import numpy as np
import scipy.optimize
import torch

import unbend
from unbend import transport

DOUBLE = torch.double


def linear_program(x, p, y, q, lam):
    """OPT by SciPy, over all plans."""
    n, m = len(p), len(q)
    costs = torch.cdist(x, y).square().numpy() - 2 * lam
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    result = scipy.optimize.linprog(costs.ravel(), A_ub=np.vstack([rows, columns]), b_ub=np.concatenate([p, q]))
    return result.fun + lam * float(p.sum() + q.sum())


def around(x, y):
    z = x - y
    return (z - z.round()).abs()


class Transport(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        self.x, self.y = torch.randn(7, 2, dtype=DOUBLE), torch.randn(9, 2, dtype=DOUBLE)
        self.p, self.q = torch.rand(7, dtype=DOUBLE), torch.rand(9, dtype=DOUBLE)

    def assert_gradient(self, f, *inputs):
        self.assertTrue(torch.autograd.gradcheck(f, tuple(t.clone().requires_grad_() for t in inputs), eps=1e-7, atol=1e-5))

    def test_partial_transport_is_the_linear_program(self):
        for lam in (.05, .5, 5.):
            plan = transport.partial_transport((self.x, self.p), (self.y, self.q), lam)
            self.assertAlmostEqual(plan.value.item(), linear_program(self.x, self.p, self.y, self.q, lam), delta=1e-9)
            dense = plan.dense()
            self.assertTrue((dense.sum(1) <= self.p + 1e-12).all() and (dense.sum(0) <= self.q + 1e-12).all())
            costs = torch.cdist(self.x, self.y).square()
            self.assertAlmostEqual((costs * dense).sum().item(), plan.cost, delta=1e-12)
            self.assertAlmostEqual(dense.sum().item(), plan.transported, delta=1e-12)
            self.assertLess(abs(plan.gap), 1e-10)
            u, v = plan.potentials
            self.assertTrue((u[:, None] + v <= costs - 2 * lam + 1e-10).all())

    def test_its_derivatives(self):
        value = lambda x, p, y, q: transport.partial_transport((x, p), (y, q), .7).value
        self.assert_gradient(value, self.x, self.p, self.y, self.q)
        line = lambda x, p: transport.partial_transport((x, p), self.y[:, 0], .7).value
        self.assert_gradient(line, self.x[:, 0], self.p)
        with self.assertRaises(unbend.InputError):
            transport.partial_transport((self.x, self.p.requires_grad_()), self.y)

    def test_balanced_transport_is_the_assignment(self):
        y = self.y[:7]
        costs = torch.cdist(self.x, y).square()
        rows, columns = scipy.optimize.linear_sum_assignment(costs.numpy())
        for plan in (transport.partial_transport(self.x.numpy(), y.numpy()),
                     transport.partial_transport(self.x, y, 1e3, solver="assignment")):
            self.assertAlmostEqual(plan.value.item(), costs[rows, columns].sum().item(), delta=1e-8)
            self.assertEqual(plan.target.tolist(), columns.tolist())
        self.assert_gradient(lambda x: transport.partial_transport(x, y).value, self.x)

    def test_solvers_are_named(self):
        for solver in ("nonsense", "assignment"):
            with self.assertRaisesRegex(unbend.InputError, solver):
                transport.partial_transport(self.x, self.y[:7], solver=solver)

    def test_an_empty_measure_gives_gradients(self):
        x = torch.tensor([[1., 2], [3, 4]], dtype=DOUBLE, requires_grad=True)
        value = transport.partial_transport(x, torch.empty(0, 2, dtype=DOUBLE), .5).value
        value.backward()
        self.assertEqual((value.item(), x.grad.tolist()), (1, [[0, 0], [0, 0]]))

    def test_lists_keep_their_digits(self):
        self.assertEqual(transport.partial_transport([[1e9 + 1]], [[1e9 + 3]], 10.).value.item(), 4)
        self.assertAlmostEqual(transport.circular_transport([.1], [.35]), .25 ** 2, delta=1e-15)

    def test_line(self):
        plan = transport.partial_transport(torch.tensor([0., 1, 9]), torch.tensor([.5, 1.5]), 1.)
        self.assertEqual((plan.solver, plan.potentials, plan.gap), ("line", None, None))
        self.assertAlmostEqual(plan.value.item(), .25 + .25 + 1)
        self.assertEqual(plan.dense().tolist(), [[1, 0], [0, 1], [0, 0]])

    def test_lopt(self):
        reference = (torch.randn(6, 2, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE) + .5)
        clouds = [(torch.randn(n, 2, dtype=DOUBLE), torch.rand(n, dtype=DOUBLE)) for n in (5, 8, 6)]
        lam = .4
        embeddings = transport.lopt_embed(reference, clouds, lam, threads=1)
        for e, cloud in zip(embeddings, clouds):
            plan = transport.partial_transport(reference, cloud, lam)
            moved = plan.dense().sum(1)
            torch.testing.assert_close(e.mass, moved)
            there = plan.dense() @ cloud[0] / moved.clamp(min=1e-300)[:, None]
            expected = torch.where(moved[:, None] > 0, there - reference[0], torch.zeros(()).double())
            torch.testing.assert_close(e.displacement, expected)
            self.assertAlmostEqual(e.value, plan.value.item(), delta=1e-12)
            self.assertAlmostEqual(e.rest[1].sum().item(), (cloud[1].sum() - moved.sum()).item(), delta=1e-12)
        matrix = transport.lopt_matrix(embeddings, lam)
        for i, a in enumerate(embeddings):
            for j, b in enumerate(embeddings):
                gaps = (a.displacement - b.displacement).square().sum(1).clamp(max=2 * lam)
                rests = a.rest[1].sum() + b.rest[1].sum() if i != j else 0.
                expected = (gaps * torch.minimum(a.mass, b.mass)).sum() + lam * ((a.mass - b.mass).abs().sum() + rests)
                self.assertAlmostEqual(matrix[i, j].item(), float(expected), delta=1e-12)
        points, masses = transport.lopt_interpolate(reference, embeddings[0], 1.)
        self.assertAlmostEqual(masses.sum().item(), clouds[0][1].sum().item(), delta=1e-12)
        points, masses = transport.lopt_interpolate(reference, embeddings[0], .25, to=embeddings[1])
        self.assertAlmostEqual(masses.sum().item(), (.75 * clouds[0][1].sum() + .25 * clouds[1][1].sum()).item(),
                               delta=1e-12)
        self.assertEqual(transport.lopt_features(reference, embeddings, lam=lam).shape, (3, 18))

    def test_lot(self):
        clouds = [self.x + torch.tensor([3. * k, 0]) for k in range(3)]
        embeddings = transport.lopt_embed(self.x, clouds)
        rows = transport.lopt_features(self.x, embeddings)
        torch.testing.assert_close(torch.cdist(rows, rows), torch.tensor([[0., 3, 6], [3, 0, 3], [6, 3, 0]], dtype=DOUBLE))
        for t in (0, .5, 1):
            points, masses = transport.lopt_interpolate(self.x, embeddings[1], t)
            torch.testing.assert_close(points, self.x + torch.tensor([3. * t, 0], dtype=DOUBLE))
            torch.testing.assert_close(masses, torch.full((7,), 1 / 7, dtype=DOUBLE))
        points, masses = transport.lopt_barycenter(self.x, clouds, 1e3)
        torch.testing.assert_close(points, clouds[1])
        torch.testing.assert_close(masses, torch.ones(7, dtype=DOUBLE))

    def test_circle(self):
        x, y = torch.rand(8, dtype=DOUBLE), torch.rand(8, dtype=DOUBLE)
        u, v = x.sort().values, y.sort().values
        best = min(around(u, v.roll(k)).square().mean().item() for k in range(8))
        self.assertAlmostEqual(transport.circular_transport(x, y), best, delta=1e-12)
        self.assertAlmostEqual(transport.circular_transport(24 * x, 24 * y, period=24), best, delta=1e-12)
        maps = [transport.lcot_embed(x), transport.lcot_embed(y)]
        grid = [transport.lcot_grid(m, 20000) for m in maps]
        distance = transport.lcot(*maps)
        self.assertAlmostEqual(distance, around(*grid).square().mean().item(), delta=1e-4)
        self.assertGreaterEqual(distance, best - 1e-12)
        torch.testing.assert_close(transport.lcot_matrix(maps),
                                   torch.tensor([[0, distance], [distance, 0]], dtype=DOUBLE))
        positions, masses = transport.lcot_atoms(maps[0])
        torch.testing.assert_close(positions, u)
        torch.testing.assert_close(masses, torch.full((8,), 1 / 8, dtype=DOUBLE))
        self.assertAlmostEqual(maps[0](.3), grid[0][6000].item() + (6000.5 / 20000), delta=1e-12)
        histogram = torch.rand(12, dtype=DOUBLE)
        histogram /= histogram.sum()
        torch.testing.assert_close(transport.lcot_histogram(transport.lcot_embed_histogram(histogram), 12), histogram)
        half = transport.lcot_interpolate(*maps, .5)
        self.assertAlmostEqual(transport.lcot(maps[0], half), distance / 4, delta=1e-12)
        self.assertAlmostEqual(transport.lcot(half, transport.lcot_barycenter(maps)), 0, delta=1e-12)
        same = transport.lcot_embed(x, reference=y)  # what it carries, its distance to the reference
        own = transport.lcot_embed(y, reference=y)
        self.assertAlmostEqual(transport.lcot(same, own), best, delta=1e-12)

    def test_derivatives_on_circle_and_sphere(self):
        x, y, p = torch.rand(6, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE) + .2
        maps = transport.lcot_embed((x, p)), transport.lcot_embed(y)
        self.assertAlmostEqual(transport.lcot_distance((x, p), y).item(), transport.lcot(*maps), delta=1e-12)
        self.assert_gradient(lambda x, p, y: transport.lcot_distance((x, p), y), x, p, y)
        self.assert_gradient(lambda x, y: transport.lcot_distance(x, y, period=24), 24 * x, 24 * y)
        a, b = torch.randn(5, 3, dtype=DOUBLE), torch.randn(6, 3, dtype=DOUBLE)
        self.assert_gradient(lambda a, b: transport.sliced_lcot(a, b, circles=7, seed=3), a, b)
        self.assertEqual(transport.sliced_lcot(a, 2 * a).item(), 0)

    def test_bad_input(self):
        for call in (lambda: transport.partial_transport((self.x, -self.p), self.y, 1.),
                     lambda: transport.partial_transport((self.x, self.p[:3]), self.y, 1.),
                     lambda: transport.partial_transport(self.x * float("nan"), self.y, 1.),
                     lambda: transport.partial_transport(self.x, torch.zeros(3, 3), 1.),
                     lambda: transport.partial_transport(torch.zeros(2, 2, 2), self.y, 1.),
                     lambda: transport.partial_transport(self.x, self.y, -1.),
                     lambda: transport.partial_transport(self.x, self.y),  # other totals
                     lambda: transport.partial_transport(self.x, self.y, 1., solver="magic"),
                     lambda: transport.lopt_features(self.x, []),
                     lambda: transport.lcot_embed(torch.tensor([3.])),  # beyond a turn
                     lambda: transport.lcot_embed(torch.zeros(0)),
                     lambda: transport.lcot_embed(torch.rand(3))(1.5),
                     lambda: transport.sliced_lcot(torch.zeros(2, 3), torch.ones(2, 3))):
            with self.assertRaises(unbend.InputError):
                call()


if __name__ == "__main__":
    unittest.main()
