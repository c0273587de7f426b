"""Trained networks, read layer by layer: how noise on their input comes out, and how they fold the space around data."""
import os
import tempfile

import torch

from . import _core
from .errors import InputError


class Network:
    """A trained feed-forward network as a list of operations. Network(module, example) traces a torch.nn.Module (in
    evaluation mode) on an example batch; Network.load(path) reads a TorchScript file. InputError, naming operation and
    line, for what is not feed-forward."""

    def __init__(self, module, example):
        training = {part: part.training for part in module.modules()}
        try:
            traced = torch.jit.trace(module.eval(), example)
        finally:
            for part, was in training.items():
                part.training = was
        with tempfile.TemporaryDirectory(prefix="unbend-") as folder:
            path = os.path.join(folder, "network.pt")
            torch.jit.save(traced, path)
            self._core = _core.read_network(path)

    @classmethod
    def load(cls, path):
        """The network of a TorchScript file (torch.jit.save)."""
        network = cls.__new__(cls)
        network._core = _core.read_network(os.fspath(path))
        return network

    def __call__(self, x):
        """[B, ..] -> [B, ..]."""
        return self._core(x)

    @property
    def layers(self):
        """Names of its operations, in order."""
        return self._core.layers


def local_complexity(network, probes, *, radius=.05, directions=20, seed=1, frame=None, include_output=False,
                     include_centre=False, layers=()):
    """How many neurons fold the input space within `radius` of each probe [S, ..], layer by layer.

    A neuron counts if its sign differs among the vertices probe +- radius * direction; the `directions` orthonormal ones
    are drawn from `seed`, or are the rows of `frame` [P, D]. Returns .total [S], .mean, .warnings and .layers, each with
    .name, .neurons, .crossings [S], .mean and .fraction. (Humayun et al. 2024, arXiv 2402.15555.)
    """
    if frame is None:
        frame = _core.orthoplex_frame(probes[0].numel(), directions, seed, probes.dtype)
    return _core.local_complexity(network._core, probes, frame, radius, include_output, include_centre, list(layers))


def propagate(f, x, *, scale=None, factor=None, covariance=None, law="gaussian", alpha=2., marginal=False,
              create_graph=False):
    """The distribution of f's output for a noisy input x [B, ..], by linearization at x: no sampling.

    f: a Network, or any function of a batch whose samples do not interact. The noise: `scale` (a number or a tensor:
    standard deviations of a Gaussian, else scales), `factor` L [n, r] or [B, n, r] (noise L s), or a Gaussian
    `covariance` [n, n] or [B, n, n]. law: "gaussian", "cauchy" or "stable" with `alpha`. marginal: layer by layer,
    without correlations (a Network, and `scale`). create_graph: results can be differentiated in what f depends on.

    Returns .location [B, k], .scale [B, k], .covariance [B, k, k], .intervals(coverage), .pairwise() [B, k, k],
    .confidence() [B] (the sum over j of log P(Y_predicted > Y_j), at most 0), .pairwise_loss(labels),
    .negative_log_likelihood(y), .with_own_noise(own) (the outputs' own, [B, k]: variances of a Gaussian, else scales).
    (Petersen et al. 2024, arXiv 2402.08324.)
    """
    if scale is not None and not torch.is_tensor(scale):
        scale = torch.tensor(scale, dtype=x.dtype)
    core = f._core if isinstance(f, Network) else f
    if marginal:
        if not isinstance(f, Network) or scale is None:
            raise InputError("marginal propagation needs a Network and a scale")
        if factor is not None or covariance is not None:
            raise InputError("marginal propagation takes a scale alone, no factor or covariance")
        return _core.propagate_marginal(core, x, law, alpha, scale)
    return _core.propagate(core, x, law, alpha, scale, factor, covariance, create_graph)
