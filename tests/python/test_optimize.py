"""Newton steps beside SciPy's minima, and streams beside the formulas of their updates."""
import pickle
import unittest

import numpy as np
import scipy.optimize
import scipy.sparse
import torch

import unbend

DOUBLE = torch.double


def rosenbrock(x):
    return torch.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])


class Minimize(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def test_logistic_regression_in_a_tree_of_weights(self):
        x, y = torch.randn(80, 5, dtype=DOUBLE), (torch.rand(80) > .4).double()

        def loss(w):
            return torch.nn.functional.binary_cross_entropy_with_logits(x @ w["slope"] + w["bias"], y) + \
                .01 * w["slope"].square().sum()

        start = {"slope": torch.zeros(5, dtype=DOUBLE), "bias": torch.zeros((), dtype=DOUBLE)}
        result = unbend.minimize(loss, start)
        self.assertTrue(result.converged, result.message)
        self.assertEqual(result.x["bias"].shape, ())

        def flat(v):
            v = torch.tensor(v, requires_grad=True)
            value = loss({"slope": v[:5], "bias": v[5]})
            return value.item(), torch.autograd.grad(value, v)[0].numpy()

        best = scipy.optimize.minimize(flat, np.zeros(6), jac=True, tol=1e-12)
        self.assertAlmostEqual(result.value, best.fun, delta=1e-10)
        torch.testing.assert_close(result.x["slope"], torch.tensor(best.x[:5]), atol=1e-6, rtol=0)
        self.assertEqual([step.index for step in result.trace], list(range(1, result.iterations + 1)))
        for step in result.trace:
            self.assertGreaterEqual(step.decrease, step.guaranteed)

    def test_residuals(self):
        for power in (2., 4.):
            result = unbend.minimize(rosenbrock, torch.tensor([-2., 2], dtype=DOUBLE), gauss_newton=True, power=power,
                                     least=0., gradient_tolerance=0.)
            self.assertEqual(result.outcome, "value_reached")
            torch.testing.assert_close(result.x, torch.ones(2, dtype=DOUBLE), atol=.1, rtol=0)
        seen = []
        stopped = unbend.minimize(rosenbrock, torch.tensor([-2., 2], dtype=DOUBLE), gauss_newton=True,
                                  progress=lambda step: seen.append(step.value) or len(seen) < 3)
        self.assertEqual((stopped.outcome, stopped.iterations), ("stopped", 3))
        self.assertFalse(stopped.converged)

    def test_bad_input(self):
        with self.assertRaises(unbend.InputError):
            unbend.minimize(lambda x: x, torch.zeros(3, dtype=DOUBLE))  # not one number
        with self.assertRaises(unbend.InputError):
            unbend.minimize(lambda x: x.log().sum(), torch.zeros(3, dtype=DOUBLE))  # not finite at the start
        with self.assertRaises(KeyError):  # the caller's own errors stay what they are
            unbend.minimize(lambda x: {}[x], torch.zeros(3, dtype=DOUBLE))


class Online(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(2)
        self.x = torch.randn(60, 6, dtype=DOUBLE) * (torch.rand(60, 6) > .5)
        self.y = torch.sign(self.x[:, 0] - .3 * self.x[:, 4] + .01)

    def test_proximal_steps_by_their_formula(self):
        rate, theta, losses = 2., torch.zeros(6, dtype=DOUBLE), []
        for x, y in zip(self.x, self.y):  # hinge, psi = rate / 2 |x|^2: b = -y clip((1 - y m) / q, 0, 1)
            margin, q = x @ theta / rate, x.square().sum() / rate
            losses.append((1 - y * margin).clamp(min=0))
            b = -y * ((1 - y * margin) / q).clamp(0, 1) if q > 0 else 0.
            theta = theta - b * x
        learner = unbend.OnlineLearner(6, loss="hinge", schedule="constant", rates=[rate]).learn(self.x, self.y)
        torch.testing.assert_close(learner.weights(), theta / rate)
        self.assertAlmostEqual(learner.tallies[0].mean_loss, torch.stack(losses).mean().item(), delta=1e-12)
        torch.testing.assert_close(learner.predict(self.x), self.x @ theta / rate)
        u = torch.randn(6, dtype=DOUBLE)
        regret = sum(losses) - (1 - self.y * (self.x @ u)).clamp(min=0).sum()
        self.assertGreaterEqual(learner.regret_bound(u), regret.item())

    def test_rows_of_every_kind(self):
        def weights(rows):
            return unbend.OnlineLearner(6).learn(rows, self.y).weights()

        dense = weights(self.x)
        for rows in (self.x.numpy(), self.x.to_sparse_csr(), scipy.sparse.csr_matrix(self.x.numpy()),
                     scipy.sparse.coo_matrix(self.x.numpy())):
            self.assertTrue(torch.equal(weights(rows), dense))
        parts = unbend.OnlineLearner(6).learn(self.x[:25], self.y[:25]).learn(self.x[25:], self.y[25:])
        self.assertTrue(torch.equal(parts.weights(), dense))
        self.assertEqual(parts.rows, 60)
        twice = unbend.OnlineLearner(6, schedule="constant").learn(self.x, self.y, 2 * torch.ones(60))
        self.assertEqual(twice.tallies[0].weight, 120)

    def test_going_on_from_a_pickle(self):
        first = unbend.OnlineLearner(6, rates=[.1, 1, 10]).learn(self.x[:30], self.y[:30])
        again = pickle.loads(pickle.dumps(first)).learn(self.x[30:], self.y[30:])
        whole = first.learn(self.x[30:], self.y[30:])
        for rate in range(3):
            self.assertTrue(torch.equal(again.weights(rate), whole.weights(rate)))
        self.assertEqual([t.mean_loss for t in again.tallies], [t.mean_loss for t in whole.tallies])
        self.assertEqual(whole.best, min(range(3), key=lambda i: whole.tallies[i].mean_loss))

    def test_classes(self):
        labels = (self.x[:, 0] > 0).double() + (self.x[:, 1] > 0).double()
        learner = unbend.OnlineLearner(6, classes=3, softmax=True, rates=[1.])
        for _ in range(30):
            learner.learn(self.x, labels)
        guesses = learner.predict(self.x).argmax(1)
        self.assertGreater((guesses == labels).double().mean().item(), .8)

    def test_bad_input(self):
        learner = unbend.OnlineLearner(6)
        for call in (lambda: unbend.OnlineLearner(6, loss="cubic"), lambda: unbend.OnlineLearner(0),
                     lambda: unbend.OnlineLearner(6, rates=[-1.]),
                     lambda: learner.learn(torch.randn(3, 7), torch.ones(3)),  # a feature too many
                     lambda: learner.learn(torch.randn(3, 4), torch.ones(3)),
                     lambda: learner.learn(self.x, self.y[:5]), lambda: learner.learn(self.x, self.y * 3),
                     lambda: learner.learn(self.x[0], self.y), lambda: learner.predict(self.x, rate=None)[:, 9],
                     lambda: learner.weights(5), lambda: learner.weights(0, average=True),
                     lambda: learner.regret_bound(torch.zeros(4))):
            with self.assertRaises((unbend.Error, IndexError)):
                call()
        self.assertEqual(learner.rows, 0)
        labels = self.y.clone()
        labels[20] = 7  # what came before it stays learnt
        with self.assertRaises(unbend.InputError):
            learner.learn(self.x, labels)
        self.assertEqual(learner.rows, 20)
        self.assertTrue(torch.equal(learner.weights(), unbend.OnlineLearner(6).learn(self.x[:20], self.y[:20]).weights()))


if __name__ == "__main__":
    unittest.main()
