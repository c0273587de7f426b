"""Roles that names do not tell, and the start that follows from them."""
import unittest

import torch

import unbend


class Roles(unittest.TestCase):
    def test_the_callers_order_decides(self):
        named = {"blocks.0.gate.scale": torch.ones(4)}
        for roles in ({"scale": "block_norm", "gate": "block_bias"}, {"gate": "block_bias", "scale": "block_norm"}):
            rules = unbend.parameterize(named, (4, 1), (4, 1), roles=roles, force=True)
            self.assertEqual(rules.tensors[0].role, next(iter(roles.values())))

    def test_only_gains_of_norms_start_at_1(self):
        named = {"blocks.0.shift": torch.full((4,), 7.), "blocks.0.norm.weight": torch.full((4,), 7.), "blocks.0.norm.bias": torch.full((4,), 7.),
                 "blocks.0.up.weight": torch.full((4, 4), 7.)}
        unbend.parameterize(named, (4, 1), (4, 1), roles={"shift": "block_bias"}, force=True).initialize()
        self.assertEqual([named[f"blocks.0.{name}"].unique().tolist() for name in ("shift", "norm.weight", "norm.bias")], [[0], [1], [0]])
        self.assertGreater(named["blocks.0.up.weight"].std(), 0)


if __name__ == "__main__":
    unittest.main()
