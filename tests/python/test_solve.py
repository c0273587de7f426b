"""Solvers and spectra against torch.linalg."""
import math
import unittest

import torch

import unbend

DOUBLE = torch.double


def psd(n, seed=1):
    torch.manual_seed(seed)
    m = torch.randn(n, n, dtype=DOUBLE)
    return m @ m.T + n * torch.eye(n, dtype=DOUBLE)


def hidden(matrix, *properties):
    """The matrix as a map that shows only its products."""
    example = torch.zeros(matrix.shape[1], dtype=matrix.dtype), torch.zeros(matrix.shape[0], dtype=matrix.dtype)
    return unbend.function_map(lambda v: matrix @ v, lambda c: matrix.T @ c, *example, properties)


class Solvers(unittest.TestCase):
    def test_each_finds_the_solution(self):
        m = psd(20)
        b = torch.randn(20, dtype=DOUBLE)
        x = torch.linalg.solve(m, b)
        a = hidden(m, "psd")
        for method in (unbend.cg, unbend.minres, unbend.gmres, unbend.lsqr, unbend.solve):
            for dtype, rtol in ((DOUBLE, 1e-7), (torch.float, 1e-3)):
                with self.subTest(method=method.__name__, dtype=dtype):
                    a = hidden(m.to(dtype), "psd")
                    s = method(a, b.to(dtype))
                    self.assertTrue(s.converged, s.message)
                    torch.testing.assert_close(s.x, x.to(dtype), rtol=rtol, atol=rtol)
        direct = unbend.solve_directly(hidden(m, "psd"), b)
        torch.testing.assert_close(direct.x, x)

    def test_options(self):
        m = psd(30, 2)
        a, b = hidden(m, "psd"), torch.randn(30, dtype=DOUBLE)
        plain = unbend.cg(a, b)
        exact = unbend.cg(a, b, x0=torch.linalg.solve(m, b))
        self.assertLess(exact.iterations, plain.iterations)
        helped = unbend.cg(a, b, preconditioner=unbend.dense(torch.linalg.inv(m)).declare("psd"))
        self.assertLessEqual(helped.iterations, 3)
        self.assertEqual(unbend.cg(a, b, max_iterations=1).outcome, "max_iterations")
        seen = []
        def stop(i, residual):
            seen.append(i)
            return False
        self.assertEqual(unbend.cg(a, b, progress=stop).outcome, "cancelled")
        self.assertTrue(seen)
        damped = unbend.lsqr(a, b, damping=2.)
        torch.testing.assert_close(damped.x, torch.linalg.solve(m @ m + 4 * torch.eye(30, dtype=DOUBLE), m @ b))

    def test_progress_goes_on_unless_it_says_no(self):
        m, b, seen = psd(100) - 99.9 * torch.eye(100, dtype=DOUBLE), torch.ones(100, dtype=DOUBLE), []
        found = unbend.cg(hidden(m, "psd"), b, progress=lambda i, r: seen.append(r))
        self.assertTrue(found.converged and seen)
        for no in (False, torch.tensor(False), 0):
            stopped = unbend.cg(hidden(m, "psd"), b, progress=lambda i, r: no)
            self.assertEqual(stopped.outcome, "cancelled")

    def test_causes_instead_of_nan(self):
        b = torch.ones(2, dtype=DOUBLE)
        indefinite = unbend.cg(hidden(torch.diag(torch.tensor([1., -1.], dtype=DOUBLE)), "psd"), b)
        self.assertEqual(indefinite.outcome, "indefinite")
        singular = unbend.solve_directly(unbend.dense(torch.ones(2, 2, dtype=DOUBLE)), torch.tensor([1., 2.]).double())
        self.assertEqual(singular.outcome, "ill_conditioned")
        for s in (indefinite, singular):
            self.assertTrue(torch.isfinite(s.x).all())
            self.assertTrue(s.message)
        self.assertEqual(unbend.cg(unbend.dense(torch.eye(2, dtype=DOUBLE)).declare("psd"), b * math.nan).outcome,
                         "nonfinite_input")
        with self.assertRaises(unbend.InputError):
            unbend.gmres(unbend.dense(torch.ones(3, 2, dtype=DOUBLE)), torch.ones(3, dtype=DOUBLE))
        broken = hidden(torch.ones(2, 2, dtype=DOUBLE), "psd").inverse()
        with self.assertRaises(unbend.ComputationError):
            broken @ torch.tensor([1., -1.], dtype=DOUBLE)


class Spectra(unittest.TestCase):
    def test_eigenpairs(self):
        m = psd(40, 3)
        values, vectors = torch.linalg.eigh(m)
        a = hidden(m, "psd")
        top = unbend.eigenpairs(a, 3, "largest")
        self.assertEqual(top.outcome, "converged", top.message)
        torch.testing.assert_close(top.values, values.flip(0)[:3])
        overlap = (top.vectors @ vectors.flip(1)[:, :3]).abs()
        torch.testing.assert_close(overlap, torch.eye(3, dtype=DOUBLE), atol=1e-6, rtol=0)
        torch.testing.assert_close(unbend.eigenpairs(a, 2, "smallest").values, values[:2])
        with self.assertRaises(unbend.InputError):
            unbend.eigenpairs(a, 3, "biggest")

    def test_singular_triplets(self):
        torch.manual_seed(4)
        m = torch.randn(30, 12, dtype=DOUBLE)
        exact = torch.linalg.svdvals(m)
        for s in (unbend.singular_triplets(hidden(m), 4), unbend.randomized_svd(hidden(m), 4)):
            torch.testing.assert_close(s.values, exact[:4])
            torch.testing.assert_close(s.left @ m, s.values[:, None] * s.right, rtol=1e-6, atol=1e-6)

    def test_estimates(self):
        m = psd(30, 5)
        a = hidden(m, "psd")
        trace = unbend.estimate_trace(a, 64)
        self.assertLess(abs(float(trace) - m.trace().item()), 5 * trace.standard_error)
        diagonal, spread = unbend.estimate_diagonal(a, 64)
        self.assertLess((diagonal - m.diagonal()).norm() / m.diagonal().norm(), 5 * spread)
        for found, exact in ((unbend.log_determinant(a), torch.logdet(m).item()),
                             (unbend.trace_of_function(a, math.sqrt), torch.linalg.eigvalsh(m).sqrt().sum().item())):
            self.assertLess(abs(found.value - exact), 5 * found.standard_error + 1e-9 * abs(exact))


if __name__ == "__main__":
    unittest.main()
