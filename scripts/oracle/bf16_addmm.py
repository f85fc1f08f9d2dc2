"""Where does a bf16 product round when it is added to a matrix? Needs a GPU for the GPU's answer; no fixture.

    python scripts/oracle/bf16_addmm.py

`addmm(c, x, wᵀ)` with c a thousandth as large as x wᵀ. Prints how much of c arrives: the result less the exact product,
projected onto c. One, on average, if the sum is rounded once; what a sum of two rounded parts gives stands beside it.
"""
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(300, 576, 960), (300, 576, 576), (300, 576, 3072), (300, 1536, 576), (1000, 576, 3072), (1000, 1536, 576)]
LARGE = [(4096, 4096, 6144), (4096, 4096, 24576), (4096, 12288, 4096), (4096, 4096, 4096)]


def arrived(rows, inputs, outputs, way):
    draw = lambda *size: torch.randn(*size, device=DEVICE)
    x, w = draw(rows, inputs).bfloat16(), (draw(outputs, inputs) / inputs**0.5).bfloat16()
    c = (1e-3 * draw(rows, outputs)).bfloat16()
    y = way(c, x, w).double() - x.double() @ w.double().T
    return ((y * c).sum() / (c.double() ** 2).sum()).item()


WAYS = {
    "addmm": lambda c, x, w: torch.addmm(c, x, w.T),
    "product in f32": lambda c, x, w: ((x.float() @ w.float().T) + c).bfloat16(),
    "rounded before": lambda c, x, w: x @ w.T + c,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    for shape in SHAPES + (LARGE if DEVICE == "cuda" else []):
        print(*shape, *(f"{name} {arrived(*shape, way):.3f}" for name, way in WAYS.items()), sep="  ", flush=True)
