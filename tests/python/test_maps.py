"""Linear maps: parity with torch.func and JAX, structures of tensors, algebra, SciPy, errors."""
import threading
import unittest

import numpy
import scipy.sparse.linalg
import torch
from torch.func import functional_call, jacrev, jvp, vjp

import unbend

torch.manual_seed(1)
DOUBLE = torch.double


def network(dtype=DOUBLE):
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).to(dtype)
    return net, {name: p.detach() for name, p in net.named_parameters()}


def like(tree):
    return {name: torch.randn_like(t) for name, t in tree.items()}


class Linearize(unittest.TestCase):
    def close(self, a, b, rtol=1e-10, atol=1e-12):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)

    def test_weights_of_a_network_against_torch_func(self):
        net, weights = network()
        x = torch.randn(4, 3, dtype=DOUBLE)
        def f(w): return functional_call(net, w, x)
        value, j = unbend.linearize(f, weights)
        self.assertEqual(j.shape, (8, 3 * 5 + 5 + 5 * 2 + 2))
        v, c = like(weights), torch.randn(4, 2, dtype=DOUBLE)
        expected, pushed = jvp(f, (weights,), (v,))
        self.close(value, expected)
        self.close(j @ v, pushed)
        self.close(j.push(v), pushed)
        pulled = vjp(f, weights)[1](c)[0]
        self.assertEqual(set(j.pull(c)), set(weights))
        for name in weights:
            self.close(j.pull(c)[name], pulled[name])
            self.close((j.T @ c)[name], pulled[name])
        self.assertTrue(unbend.dot_test(j))
        self.assertTrue(unbend.check_linearization(f, weights))

    def test_f_runs_once(self):
        calls = []
        def f(x):
            calls.append(1)
            return torch.sin(x)
        _, j = unbend.linearize(f, torch.randn(3, dtype=DOUBLE))
        for _ in range(4):
            j.pull(j.push(torch.randn(3, dtype=DOUBLE)))
        j.dense()
        self.assertEqual(len(calls), 1)

    def test_float32_against_jax(self):
        import jax
        import jax.numpy as jnp
        w = torch.randn(6, 4)
        x, v = torch.randn(4), torch.randn(4)
        value, j = unbend.linearize(lambda x: torch.tanh(w @ x) * x.sum(), x)
        jw = jnp.asarray(w.numpy())
        y, push = jax.linearize(lambda x: jnp.tanh(jw @ x) * x.sum(), jnp.asarray(x.numpy()))
        self.close(value, torch.from_numpy(numpy.array(y)), 1e-5, 1e-5)
        self.close(j @ v, torch.from_numpy(numpy.array(push(jnp.asarray(v.numpy())))), 1e-4, 1e-5)

    def test_many_complex_numbers_in_float32(self):  # whose sums round
        x, v = torch.randn(1 << 20), torch.randn(1 << 20)
        def f(x): return ((1j * x).exp() + 1).abs()
        self.close(unbend.linearize(f, x)[1] @ v, jvp(f, (x,), (v,))[1], 1e-3, 1e-3)

    def test_several_arguments_and_results(self):
        a, b = torch.randn(3, dtype=DOUBLE), torch.randn(2, dtype=DOUBLE)
        def f(a, b): return {"sum": a.sum() + b, "outer": torch.outer(a, b)}
        value, j = unbend.linearize(f, a, b)
        self.assertEqual(set(value), {"sum", "outer"})
        va, vb = torch.randn_like(a), torch.randn_like(b)
        _, pushed = jvp(f, (a, b), (va, vb))
        for name, y in j.push((va, vb)).items():
            self.close(y, pushed[name])
        ca, cb = j.pull({"sum": torch.ones_like(b), "outer": torch.zeros(3, 2, dtype=DOUBLE)})
        self.close(ca, torch.full_like(a, 2))
        self.close(cb, torch.ones_like(b))

    def test_push_modes(self):
        x, v = torch.randn(3, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
        recorded = unbend.linearize(torch.sin, x)[1] @ v
        self.close(unbend.linearize(torch.sin, x, push="dual")[1] @ v, recorded)
        with self.assertRaises(unbend.Error):
            unbend.linearize(torch.sin, x, push="none")[1] @ v
        with self.assertRaisesRegex(unbend.InputError, "dual"):
            unbend.linearize(torch.sin, x, push="sometimes")

    def test_pushes_through_complex_numbers(self):
        x, v = torch.randn(6, dtype=DOUBLE), torch.randn(6, dtype=DOUBLE)
        for f in (lambda x: ((1j * x).exp() + 1).abs(), lambda x: torch.fft.fft(x).real, lambda x: torch.fft.rfft(x).abs(),
                  lambda x: torch.complex(x, x.sin()).sin().imag, lambda x: torch.polar(x.exp(), x).sqrt().angle()):
            expected, pushed = jvp(f, (x,), (v,))
            value, j = unbend.linearize(f, x)
            self.close(value, expected)
            self.close(j @ v, pushed)
            c = torch.randn_like(expected)
            self.close(j.pull(c) @ v, c @ pushed)

    def test_second_derivatives_through_absolute_values(self):
        x, v = torch.randn(5, dtype=DOUBLE), torch.randn(5, dtype=DOUBLE)
        _, h = unbend.hessian(lambda x: (x.abs() ** 3).sum(), x)
        for _ in range(2):
            self.close(h @ v, 6 * x.abs() * v)
        self.close(h.dense(), torch.diag(6 * x.abs()))

    def test_dual_pushes(self):
        q = torch.randn(1, 1, 20, 4, dtype=DOUBLE)
        scan = lambda q: unbend.gated_scan(q, q, q)[0]
        _, recorded = unbend.linearize(scan, q)
        _, dual = unbend.linearize(scan, q, push="dual")
        v = torch.randn_like(q)
        self.close(dual @ v, recorded @ v)
        x, w = torch.randn(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
        _, changed = unbend.linearize(lambda x: x.mul_(2).sin(), x.clone(), push="dual", pull=False)
        for _ in range(2):
            self.close(changed @ w, 2 * (2 * x).cos())
        failed = []
        def work():
            try:
                for _ in range(20):
                    dual @ v
            except Exception as error:
                failed.append(error)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failed, [])

    def test_maps_of_other_structures_do_not_mix(self):
        x = {"a": torch.randn(2, dtype=DOUBLE), "b": torch.randn(2, dtype=DOUBLE)}
        _, f = unbend.linearize(lambda x: {"u": 2 * x["a"], "w": 3 * x["b"]}, x)
        _, g = unbend.linearize(lambda x: {"w": 5 * x["b"], "u": 7 * x["a"]}, x)
        _, h = unbend.linearize(lambda y: y["u"] - y["w"], {"u": x["a"], "w": x["b"]})
        self.assertEqual((h @ f).shape, (2, 4))
        for mix in (lambda: f + g, lambda: f - g, lambda: h @ g, lambda: unbend.block_row([f, g])):
            with self.assertRaisesRegex(unbend.InputError, "structures"):
                mix()

    def test_maps_are_of_floating_point_numbers(self):
        for like in (torch.ones(2, dtype=torch.cdouble), torch.ones(2, dtype=torch.long)):
            for make in (lambda: unbend.identity(like), lambda: unbend.zero(like, like),
                         lambda: unbend.function_map(lambda v: v, lambda v: v, like, like)):
                with self.assertRaisesRegex(unbend.InputError, "floating-point"):
                    make()

    def test_inside_no_grad_and_of_our_kernels(self):
        q, k, v = (torch.randn(1, 2, 5, 3, dtype=DOUBLE) for _ in range(3))
        with torch.no_grad():
            _, j = unbend.linearize(lambda q: unbend.gated_scan(q, k, v)[0], q)
        self.assertTrue(unbend.dot_test(j))
        self.close(j @ q, unbend.gated_scan(q, k, v)[0])  # linear in q

    def test_gradients_through_products(self):
        x = torch.randn(3, dtype=DOUBLE)
        _, j = unbend.linearize(lambda x: x ** 3, x)
        v = torch.randn(3, dtype=DOUBLE, requires_grad=True)
        (j @ v).sum().backward()
        self.close(v.grad, 3 * x ** 2)

    def test_hessian(self):
        x = torch.randn(4, dtype=DOUBLE)
        def f(x): return (x ** 4).sum() + x.prod()
        gradient, h = unbend.hessian(f, x)
        self.close(gradient, jacrev(f)(x))
        self.close(h.dense(), torch.func.hessian(f)(x))
        self.assertIn("symmetric", h.properties)

    def test_implicit_derivative(self):
        theta = torch.tensor([2., 5.], dtype=DOUBLE)
        d = unbend.implicit_derivative(lambda t, x: x * x - t, theta, theta.sqrt())
        self.close(d.dense(), torch.diag(.5 / theta.sqrt()), 1e-8, 1e-10)

    def test_exceptions_of_the_function_come_through(self):
        def f(x): raise KeyError("mine")
        with self.assertRaisesRegex(KeyError, "mine"):
            unbend.linearize(f, torch.ones(2))

    def test_kernels_without_dual_numbers_say_so(self):
        q = torch.randn(1, 2, 5, 3, dtype=DOUBLE)
        _, j = unbend.linearize(lambda q: unbend.window_attention(q, q, q, 3), q, push="dual")
        with self.assertRaisesRegex(unbend.ComputationError, "no such derivative"):
            j @ q

    def test_in_several_threads(self):
        x = torch.randn(50, dtype=DOUBLE)
        found = {}
        def work(i): found[i] = unbend.linearize(lambda x: torch.sin(i * x), x)[1].diagonal()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 5)]
        for t in threads: t.start()
        for t in threads: t.join()
        for i in range(1, 5):
            self.close(found[i], i * torch.cos(i * x))

    def test_bad_input(self):
        x = torch.ones(2, dtype=DOUBLE)
        for f, at, words in ((lambda x: x.detach(), x, "depend"), (lambda x: 3, x, "tensors only"),
                             (torch.sin, torch.ones(2, dtype=torch.long), "floating"),
                             (lambda x: x.mul_(2), x, "in place"), (lambda x: x[:1].add_(1), x, "in place")):
            with self.subTest(words), self.assertRaisesRegex(unbend.InputError, words):
                unbend.linearize(f, at)
        with self.assertRaises(unbend.ComputationError):
            unbend.linearize(torch.log, -x)
        with self.assertRaises(unbend.InputError):
            unbend.linearize(torch.sin)
        _, j = unbend.linearize(torch.sin, x)
        with self.assertRaises(unbend.InputError):
            j @ torch.ones(3, dtype=DOUBLE)
        with self.assertRaisesRegex(unbend.InputError, "structure"):
            j @ (x,)
        with self.assertRaises(ValueError):  # the standard kind too
            j + unbend.dense(torch.ones(3, 3, dtype=DOUBLE))
        with self.assertRaises(TypeError):
            j + 1


class Algebra(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(3)
        self.matrix = torch.randn(4, 3, dtype=DOUBLE)
        self.a = unbend.dense(self.matrix)

    def same(self, a, matrix):
        torch.testing.assert_close(a.dense(), matrix)
        self.assertTrue(unbend.dot_test(a))

    def test_maps_from_maps(self):
        a, m = self.a, self.matrix
        b = torch.randn(4, 3, dtype=DOUBLE)
        self.same(a + unbend.dense(b), m + b)
        self.same(a - unbend.dense(b), m - b)
        self.same(-a, -m)
        self.same(2 * a, 2 * m)
        self.same(a / 4, m / 4)
        self.same(a.T, m.T)
        self.same(a.T @ unbend.dense(b), m.T @ b)
        self.same(a.gram(), m.T @ m)
        self.same(a.outer_gram(), m @ m.T)
        self.same(a.gram().shift(.5), m.T @ m + .5 * torch.eye(3, dtype=DOUBLE))
        self.same(a.gram().inverse(), torch.linalg.inv(m.T @ m))
        self.same(a.materialize(), m)
        self.assertIn("psd", a.gram().properties)
        torch.testing.assert_close(a.gram().diagonal(), (m.T @ m).diagonal())
        self.assertAlmostEqual(a.gram().trace(), (m * m).sum().item())

    def test_maps_from_data(self):
        x, y = torch.randn(3, dtype=DOUBLE), torch.randn(2, 2, dtype=DOUBLE)
        self.same(unbend.identity(x), torch.eye(3, dtype=DOUBLE))
        self.same(unbend.zero(x, y), torch.zeros(4, 3, dtype=DOUBLE))
        self.same(unbend.diagonal(x), torch.diag(x))
        u, v = torch.randn(4, 2, dtype=DOUBLE), torch.randn(3, 2, dtype=DOUBLE)
        self.same(unbend.low_rank(u, v), u @ v.T)
        m = self.matrix
        self.same(unbend.function_map(lambda v: m @ v, lambda c: m.T @ c, x, torch.ones(4, dtype=DOUBLE)), m)
        wrong = unbend.function_map(lambda v: m @ v, lambda c: 2 * (m.T @ c), x, torch.ones(4, dtype=DOUBLE))
        self.assertFalse(unbend.dot_test(wrong))

    def test_blocks(self):
        a, m = self.a, self.matrix
        self.same(unbend.block_row([a, a]), torch.cat([m, m], 1))
        self.same(unbend.block_column([a, 2 * a]), torch.cat([m, 2 * m]))
        self.same(unbend.block_diagonal([a, a]), torch.block_diag(m, m))
        with self.assertRaises(unbend.InputError):
            unbend.block_row([])

    def test_many_vectors(self):
        v = torch.randn(6, 3, dtype=DOUBLE)
        torch.testing.assert_close(self.a.push_many(v), v @ self.matrix.T)
        c = torch.randn(6, 4, dtype=DOUBLE)
        torch.testing.assert_close(self.a.pull_many(c), c @ self.matrix)

    def test_declarations(self):
        square = unbend.dense(torch.randn(3, 3, dtype=DOUBLE))
        self.assertEqual(unbend.check_properties(square), "")
        self.assertNotEqual(unbend.check_properties(square.declare("psd")), "")
        with self.assertRaises(unbend.InputError):
            square.declare("nice")
        with self.assertRaises(unbend.InputError):
            self.a.declare("symmetric")

    def test_scipy_solvers_that_write_into_their_vectors(self):
        _, j = unbend.linearize(lambda x: x + 1, torch.zeros(4, dtype=DOUBLE))
        b = numpy.arange(1., 5)
        x, failed = scipy.sparse.linalg.gmres(j.scipy(), b)
        self.assertEqual(failed, 0)
        numpy.testing.assert_allclose(x, b)
        numpy.testing.assert_allclose(j.scipy() @ (b + 2j * b), b + 2j * b)
        weight = torch.nn.Parameter(torch.ones(2, dtype=DOUBLE))
        a = unbend.function_map(lambda v: weight * v, lambda c: weight * c, weight.detach(), weight.detach())
        numpy.testing.assert_allclose(a.scipy() @ numpy.ones(2), numpy.ones(2))

    def test_scipy(self):
        net, weights = network()
        _, j = unbend.linearize(lambda w: functional_call(net, w, torch.ones(4, 3, dtype=DOUBLE)), weights)
        operator, matrix = j.scipy(), j.dense().numpy()
        v, c = numpy.random.default_rng(1).normal(size=(2, 32))[:, :]
        numpy.testing.assert_allclose(operator @ v, matrix @ v)
        numpy.testing.assert_allclose(operator.H @ c[:8], matrix.T @ c[:8])
        numpy.testing.assert_allclose(operator @ numpy.eye(32), matrix, atol=1e-14)
        numpy.testing.assert_allclose(operator.H @ numpy.eye(8), matrix.T, atol=1e-14)
        ours = unbend.singular_triplets(j, 1).values.numpy()
        theirs = scipy.sparse.linalg.svds(operator, k=1, return_singular_vectors=False)
        numpy.testing.assert_allclose(ours, theirs, rtol=1e-8)


if __name__ == "__main__":
    unittest.main()
