"""TorchScript files for network_file_test.cc. Usage: networks.py FOLDER

Each case NAME gives NAME.pt, and NAME.in.npy and NAME.out.npy: an input and the module's output by PyTorch. refused/NAME.pt
are modules that a network of known operations cannot express.
"""
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FOLDER = Path(sys.argv[1])


class Residual(nn.Module):
    """Residual block, in-place activations, every kind of pool, constants, a concatenation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2)
        self.drop = nn.Dropout(0.3)
        self.drop2 = nn.Dropout2d(0.3)
        self.leaky = nn.LeakyReLU(0.1)
        self.largest = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(2, stride=1, padding=1)
        self.mean, self.max = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d((1, 1))
        self.head = nn.Linear(8, 5)
        self.last_norm = nn.LayerNorm(5)

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        z = self.second(y)
        z += y
        z = self.average(self.largest(self.leaky(self.drop2(z)))) * 2.0 / 3
        a = torch.cat([self.mean(z), self.max(z)], 1)
        a = self.drop(a.view(a.size(0), -1))
        return self.last_norm(self.head(a)) - 1


class Arithmetic(nn.Module):
    """Sums and products with constants and values, written in every way."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("scale", torch.rand(6) + 0.5)
        self.matrix = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        x = (x - self.shift) / self.scale
        y = torch.matmul(x, self.matrix) + self.bias
        z = torch.sigmoid(y) - 0.5 * torch.tanh(y)
        z = torch.add(z, y, alpha=0.25)
        z = 1 - z
        return torch.addmm(self.bias[:3], -z, self.matrix[:4, :3]) + torch.mean(x, 1, keepdim=True) * 2


class Channels(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.randn(3, 1, 1))
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        return self.up(x - self.mean).mean([2, 3])


class Mixed(nn.Module):
    """Normalises its features itself; the input may have more dimensions than two."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh"), nn.Linear(4, 4, bias=False), nn.GELU(), nn.SiLU(), nn.Softplus())
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x):
        return F.dropout(self.net(x * 0.5 + self.shift), 0.5, self.training)


class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        if x.dim() != 2:
            raise ValueError("two dimensions")
        return self.fc(x)


def volume():
    return nn.Sequential(nn.Conv3d(2, 3, 2), nn.MaxPool3d(2, 1), nn.ReLU(), nn.AvgPool3d(2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())


def line():
    return nn.Sequential(nn.Conv1d(2, 3, 3, padding=2, dilation=2), nn.BatchNorm1d(3), nn.Tanh(), nn.MaxPool1d(2, ceil_mode=True),
                         nn.AvgPool1d(2), nn.ConvTranspose1d(3, 2, 3, bias=False), nn.AdaptiveMaxPool1d(1), nn.Flatten())


class Product(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Branch(nn.Module):
    def forward(self, x):
        if x.size(0) > 3:
            return x + 1
        return x - 1


class Active(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(x)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return torch.softmax(self.inner(x), 1)


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn(4)


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def trained(module):
    """Norms with statistics other than 0 and 1."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight)
    return module.eval()


def main():
    torch.manual_seed(1)
    (FOLDER / "refused").mkdir(parents=True, exist_ok=True)
    cases = {"residual": (Residual(), (2, 3, 16, 16)), "arithmetic": (Arithmetic(), (3, 6)), "channels": (Channels(), (2, 3, 5, 5)),
             "mixed": (Mixed(), (2, 4, 4)), "checked": (Checked(), (3, 4)), "volume": (volume(), (2, 2, 6, 6, 6)),
             "line": (line(), (2, 2, 11))}
    for name, (module, shape) in cases.items():
        x = torch.randn(shape)
        trained(module)
        with torch.no_grad():
            out = module(x.clone())
        for form in ("scripted", "traced", "frozen"):
            made = torch.jit.trace(module, x) if form == "traced" else torch.jit.script(module)
            if form == "frozen":
                made = torch.jit.freeze(made)
            torch.jit.save(made, FOLDER / f"{name}.{form}.pt")
        np.save(FOLDER / f"{name}.in.npy", x.numpy())
        np.save(FOLDER / f"{name}.out.npy", out.numpy())
    for module in (Product(), Branch(), Active(), BatchStatistics(), Gate(), Two(), Noisy(), Transposed()):
        torch.jit.save(torch.jit.script(module), FOLDER / "refused" / f"{type(module).__name__}.pt")
    torch.save(nn.Linear(2, 3).state_dict(), FOLDER / "weights.pt")


if __name__ == "__main__":
    main()
