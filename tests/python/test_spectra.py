"""Start vectors of spectra, in the trees of the map's own spaces."""
import unittest

import torch

import unbend


class Starts(unittest.TestCase):
    def map(self, matrix):
        """Of a dictionary, to a list."""
        at = {"x": torch.zeros(matrix.shape[1], dtype=torch.double)}
        return unbend.linearize(lambda tree: [matrix @ tree["x"]], at)[1]

    def test_singular_triplets_start_in_the_domain(self):
        torch.manual_seed(1)
        for shape in ((9, 4), (4, 9)):
            with self.subTest(shape=shape):
                m = torch.randn(shape, dtype=torch.double)
                a = self.map(m)
                found = unbend.singular_triplets(a, 2, start={"x": torch.ones(shape[1], dtype=torch.double)})
                torch.testing.assert_close(found.values, torch.linalg.svdvals(m)[:2])
                with self.assertRaisesRegex(unbend.InputError, "start has the structure"):
                    unbend.singular_triplets(a, 2, start=[torch.ones(shape[0], dtype=torch.double)])


if __name__ == "__main__":
    unittest.main()
