"""LD4MRec, readable next to its paper: what does the model say, equation by equation?

Reference: Zhu et al., "LD4MRec: Simplifying and Powering Diffusion Model for Multimedia Recommendation",
arXiv 2309.15363v2.

- `diffusion`: noise schedule, corruption, step embedding and importance sampling over steps (Eq. 1-3, 8, 17);
- `signals`: the two condition signals, collaborative and modality preference (Eq. 14-16);
- `cnet`: the network's CG and PG blocks (Eq. 4, 18-22);
- `model`: training, forward-free inference and the paper's ablations (Eq. 5-8, Algorithms 1 and 2);
- `rows`: rows of the sparse interaction matrix on the training device.
"""

from ld4mrec.model import LD4MRec

__all__ = ["LD4MRec"]
