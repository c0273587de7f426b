"""Settings tuned on a small transformer, for a wider and deeper one (Dey et al. 2025, arXiv 2505.01618)."""
import torch

from . import _core
from .errors import InputError


class Rules:
    """What a parameterization says about every tensor of a model, and how its forward pass is scaled.

    .tensors: name, role, init_std, lr, weight_decay, eps of each. The forward pass must multiply every residual branch
    with .residual_multiplier, the logits with .logit_multiplier, and attention scores with 1 / d_head, not its root.
    """

    def __init__(self, core, parameters):
        self._parameters = parameters
        self.tensors, self.warnings = core.tensors, core.warnings
        self.input_multiplier = core.input_multiplier
        self.residual_multiplier, self.logit_multiplier = core.residual_multiplier, core.logit_multiplier

    def parameter_groups(self):
        """For torch.optim.AdamW: tensors with equal settings together. A schedule must scale all groups alike."""
        groups = {}
        for rule in self.tensors:
            settings = (rule.lr, rule.weight_decay, rule.eps)
            groups.setdefault(settings, []).append(self._parameters[rule.name])
        return [{"params": tensors, "lr": lr, "weight_decay": decay, "eps": eps}
                for (lr, decay, eps), tensors in groups.items()]

    @torch.no_grad()
    def initialize(self, generator=None):
        """Draws every tensor anew: normal of its init_std, norms' gains 1, biases 0."""
        for rule in self.tensors:
            tensor = self._parameters[rule.name]
            if rule.init_std > 0:
                tensor.normal_(0, rule.init_std, generator=generator)
            else:
                tensor.fill_(1 if rule.role.endswith("norm") and not rule.name.endswith("bias") else 0)

    def __str__(self):
        widest = max(len(rule.name) for rule in self.tensors)
        lines = [f"{'tensor':{widest}}  {'role':12}  {'init std':>9}  {'lr':>9}  {'decay':>7}  {'eps':>9}"]
        for r in self.tensors:
            lines.append(f"{r.name:{widest}}  {r.role:12}  {r.init_std:9.4g}  {r.lr:9.4g}  {r.weight_decay:7.4g}  {r.eps:9.3g}")
        lines.append(f"residual branches x {self.residual_multiplier:.6g}, logits x {self.logit_multiplier:.6g}")
        return "\n".join(lines + list(self.warnings))


def parameterize(model, size, base, *, name="completep", alpha=None, lr=2 ** -8, weight_decay=.1, eps=1e-12,
                 init_std=.02, tied=False, independent_decay=False, force=False, roles=None):
    """The rules of a model's tensors.

    model: a torch.nn.Module (pre-norm blocks) or its named parameters. size and base: (width, depth) or (width, depth,
    head width) of this model and of the one that lr, weight_decay, eps and init_std were tuned on; depth counts blocks.
    name: "sp", "mup", "depth-mup" or "completep"; alpha: another exponent of the residual branches. roles: parts of
    tensor names to "embedding", "block_norm", "block_weight", "block_bias", "final_norm", "unembedding" or None (left
    out), where names do not tell; the first part that a name contains decides. InputError for tensors without a role,
    all named.
    """
    named = dict(model.named_parameters() if isinstance(model, torch.nn.Module) else model)
    sizes = [list(s) + [0] * (3 - len(s)) for s in (size, base)]
    if any(len(s) != 3 for s in sizes):
        raise InputError("sizes are (width, depth) or (width, depth, head width)")
    core = _core.parameterize([(n, list(p.shape)) for n, p in named.items()], name, alpha, *sizes,
                              {"lr": lr, "weight_decay": weight_decay, "eps": eps, "init_std": init_std}, tied,
                              independent_decay, force, list((roles or {}).items()))
    return Rules(core, named)
