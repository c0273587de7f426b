"""The kernels, forward and backward, against their formulas in plain torch."""
import unittest

import torch
import torch.nn.functional as F

import unbend

DOUBLE = torch.double


def parity(case, ours, theirs, inputs, rtol=1e-9):
    """Values and gradients of both, for the same random cotangent."""
    results = []
    for f in (ours, theirs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = f(*leaves)
        torch.manual_seed(9)
        results.append((y, torch.autograd.grad(y, leaves, torch.randn(y.shape, dtype=y.dtype))))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=rtol, atol=rtol)
    for a, b in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


def scan(q, k, v, log_decay, state):
    """The recurrence, token by token; q has `group` heads for each one of k."""
    group, out = q.shape[1] // k.shape[1], []
    for t in range(q.shape[2]):
        state = log_decay[:, :, t, :, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        out.append(torch.einsum("bhi,bhij->bhj", q[:, :, t], state.repeat_interleave(group, 1)))
    return torch.stack(out, 2), state


class Attention(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def randn(self, *shape):
        return torch.randn(shape, dtype=DOUBLE)

    def test_gated_scan(self):
        q, k, v = self.randn(2, 4, 37, 5), self.randn(2, 2, 37, 5), self.randn(2, 2, 37, 3)
        decay, state = -self.randn(2, 2, 37, 5).abs(), self.randn(2, 2, 5, 3)
        for form in ("chunked", "recurrent", "parallel"):
            with self.subTest(form):
                parity(self, lambda *x: unbend.gated_scan(*x, form=form)[0], lambda *x: scan(*x)[0],
                       (q, k, v, decay, state))
        last = unbend.gated_scan(q, k, v, decay, state)[1]
        torch.testing.assert_close(last, scan(q, k, v, decay, state)[1])
        half = unbend.gated_scan(q[:, :, :20], k[:, :, :20], v[:, :, :20], decay[:, :, :20], state)[1]
        rest = unbend.gated_scan(q[:, :, 20:], k[:, :, 20:], v[:, :, 20:], decay[:, :, 20:], half)[1]
        torch.testing.assert_close(rest, last)

    def test_second_derivatives(self):
        q, k, v = (self.randn(1, 1, 4, 2).requires_grad_() for _ in range(3))
        self.assertTrue(torch.autograd.gradgradcheck(lambda *x: unbend.gated_scan(*x)[0], (q, k, v)))
        self.assertTrue(torch.autograd.gradgradcheck(lambda *x: unbend.window_attention(*x, 2), (q, k, v)))

    def test_function_transforms(self):
        """torch.func against the same derivatives by autograd, and vmap against a loop."""
        x, t = self.randn(3, 1, 2, 20, 4), self.randn(1, 2, 20, 4)
        weight = self.randn(4)
        cases = {"gated_scan": lambda x: unbend.gated_scan(x, x, x, -x.square())[0],
                 "recurrent": lambda x: unbend.gated_scan(x, x, x, form="recurrent")[1],
                 "window_attention": lambda x: unbend.window_attention(x, x, x, 3, sinks=1),
                 "gaussian_kernel": lambda x: unbend.gaussian_kernel(x, x[:, :, :5]),
                 "rms_norm": lambda x: unbend.rms_norm(x, weight),
                 "swiglu": unbend.swiglu}
        for name, f in cases.items():
            with self.subTest(name):
                one = x[0].clone().requires_grad_()
                y = f(one)
                d = torch.randn_like(y)
                (pull,) = torch.autograd.grad((y * d).sum(), one)
                value, vjp = torch.func.vjp(f, x[0])
                torch.testing.assert_close(value, y.detach())
                torch.testing.assert_close(vjp(d)[0], pull)
                push = torch.func.jvp(f, (x[0],), (t,))[1]
                torch.testing.assert_close((push * d).sum(), (pull * t).sum())
                torch.testing.assert_close(torch.func.vmap(f)(x), torch.stack([f(row) for row in x]))
                rows = torch.func.vmap(torch.func.grad(lambda x: f(x).square().sum()))(x)
                last = x[2].clone().requires_grad_()
                torch.testing.assert_close(rows[2], torch.autograd.grad(f(last).square().sum(), last)[0])

    def test_window_attention(self):
        q, k, v = self.randn(2, 4, 23, 6), self.randn(2, 2, 23, 6), self.randn(2, 2, 23, 5)
        t = torch.arange(23)
        back = t[:, None] - t[None]
        seen = (back >= 0) & ((back < 7) | (t < 2))
        def plain(q, k, v):
            return F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=seen)
        parity(self, lambda *x: unbend.window_attention(*x, 7, sinks=2), plain, (q, k, v))
        out, largest, lse = unbend.window_attention(q, k, v, 7, sinks=2, partial=True)
        scores = (q @ k.repeat_interleave(2, 1).mT / 6 ** .5).masked_fill(~seen, -torch.inf)
        torch.testing.assert_close(largest, scores.amax(-1))
        torch.testing.assert_close(lse, scores.logsumexp(-1))

    def test_gaussian_attention(self):
        x, y = self.randn(2, 3, 9, 4), self.randn(2, 3, 5, 4)
        parity(self, unbend.gaussian_kernel, lambda x, y: (-torch.cdist(x, y) ** 2 / 2).exp(), (x, y), 1e-7)
        v = self.randn(2, 3, 9, 2)
        c, a = unbend.gaussian_kernel(x, y), unbend.gaussian_kernel(y, y)
        exact = c @ torch.linalg.solve(a, c.mT @ v)
        self.assertLess((unbend.soft_attention(x, y, v) - exact).norm() / exact.norm(), .05)

    def test_norms(self):
        x, w = self.randn(3, 4, 8), self.randn(8)
        parity(self, lambda *a: unbend.rms_norm(*a), lambda x, w: F.rms_norm(x, (8,), w, 1e-6), (x, w))
        parity(self, unbend.swiglu, lambda x: F.silu(x[..., :4]) * x[..., 4:], (x,))

    def test_bad_input(self):
        q = self.randn(1, 2, 5, 3)
        for words, call in (("", lambda: unbend.gated_scan(q, q[:, :, :4], q)),
                            ("form", lambda: unbend.gated_scan(q, q, q, form="fast")),
                            ("axis", lambda: unbend.gated_scan(q, q, q, axis="time")),
                            ("", lambda: unbend.gated_scan(q, q, q, torch.ones(1, 2, 5, 1, dtype=DOUBLE))),
                            ("window", lambda: unbend.window_attention(q, q, q, 0)),
                            ("q must be", lambda: unbend.window_attention(q[0], q, q, 1))):
            with self.assertRaisesRegex(unbend.InputError, words):
                call()

    def test_inverses_tell_their_residuals(self):
        y, eye = self.randn(2, 3, 5, 4), torch.eye(5, dtype=DOUBLE)
        a = unbend.gaussian_kernel(y, y)
        for solver in ("newton", "cholesky"):
            parity(self, lambda a: unbend.symmetric_inverse(a, solver=solver, ridge=.1),
                   lambda a: torch.linalg.inv(a + .1 * eye), (a,), 1e-5)
            inverse, residual = unbend.symmetric_inverse(a, solver=solver, ridge=.2, residual=True)
            torch.testing.assert_close(residual, (eye - inverse @ (a + .2 * eye)).abs().amax((-2, -1)))
        ones = torch.ones(2, 3, 5, 5, dtype=DOUBLE)  # equal landmarks: far too few steps, but not for Cholesky
        self.assertGreater(unbend.symmetric_inverse(ones, iterations=5, residual=True)[1].min(), .5)
        self.assertLess(unbend.symmetric_inverse(ones, solver="cholesky", residual=True)[1].max(), 1e-9)

    def test_soft_attention_tells_its_residual(self):
        x, y, v = self.randn(2, 3, 9, 4), self.randn(2, 3, 5, 4), self.randn(2, 3, 9, 2)
        c, a = unbend.gaussian_kernel(x, y), unbend.gaussian_kernel(y, y)
        out, residual = unbend.soft_attention(x, y, v, solver="cholesky", ridge=.1, residual=True)
        torch.testing.assert_close(out, c @ torch.linalg.solve(a + .1 * torch.eye(5, dtype=DOUBLE), c.mT @ v))
        self.assertEqual(residual.shape, (2, 3))
        self.assertLess(residual.max(), 1e-9)
        near = .01 * y  # landmarks that are nearly equal
        self.assertGreater(unbend.soft_attention(x, near, v, iterations=5, residual=True)[1].min(), .5)
        one, more = (unbend.soft_attention(x, y, v, iterations=n, residual=True) for n in (1, 30))
        self.assertGreater(one[1].max(), more[1].max())
        self.assertFalse(torch.allclose(one[0], more[0]))
        for words, options in (("solver", {"solver": "qr"}), ("ridge", {"ridge": -1.}),
                               ("iterations", {"iterations": 0})):
            with self.assertRaisesRegex(unbend.InputError, words):
                unbend.soft_attention(x, y, v, **options)
            with self.assertRaisesRegex(unbend.InputError, words):
                unbend.symmetric_inverse(a, **options)


if __name__ == "__main__":
    unittest.main()
