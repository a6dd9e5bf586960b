"""DiffRec in one step: trained as DiffRec, scored by a single pass through its network.

Reference: Wang, Xu, Feng, Lin, He, Chua, "Diffusion Recommender Model", SIGIR 2023, arXiv 2304.04971, for everything
but the inference, which is a control and not published:

    scores = f(x_0, t = 1)    instead of the reverse chain x_T -> ... -> x_0 with x_T = x_0

Training draws steps and noise exactly as DiffRec does, so with the same seed and hyper-parameters the weights are the
same, and the difference between the two rows of a table is what the T reverse steps add in accuracy and cost in time.
With small noise it is close to nothing: each reverse step then moves x by a percent or so.

Readings taken:

- `reweight="snr"` stays the default, so that the two differ in one thing only. It trains t = 1, the only step used
  here, least of all. As a model of its own, and with larger noise, one step is better served by `reweight="none"`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor

from baselines.diffrec import DiffRec


class DiffRecOneStep(DiffRec):
    """Denoise a user's interaction row once, at the smallest noise, and rank by the result.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        hidden_dims: widths of the hidden layers from the middle outwards, mirrored in the encoder.
        diffusion_steps: T, the steps of training.
        noise_scale: s; scales all noise variances.
        noise_min: a_min, the first variance over s.
        noise_max: a_max, the last variance over s.
        fix_first_beta: replace beta_1 by 1e-5 as the authors' code does.
        reweight: "snr" weighs step t by SNR(t-1) - SNR(t); "none" weighs all steps alike.
        dropout: share of the noisy row's entries dropped in training.
        learning_rate: AdamW's step size.
        weight_decay: AdamW's decoupled weight decay.
        batch_size: users per step.

    Raises:
        ValueError: as DiffRec does.
    """

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        hidden_dims: tuple[int, ...] = (1000,),
        diffusion_steps: Annotated[int, Ge(1)] = 5,
        noise_scale: Annotated[float, Interval(gt=0, le=1)] = 0.01,
        noise_min: Annotated[float, Interval(gt=0, lt=1)] = 0.001,
        noise_max: Annotated[float, Interval(gt=0, lt=1)] = 0.01,
        fix_first_beta: bool = True,
        reweight: Literal["snr", "none"] = "snr",
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
        learning_rate: Annotated[float, Gt(0)] = 1e-4,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 400,
    ) -> None:
        super().__init__(
            interactions,
            features,
            hidden_dims=hidden_dims,
            diffusion_steps=diffusion_steps,
            noise_scale=noise_scale,
            noise_min=noise_min,
            noise_max=noise_max,
            fix_first_beta=fix_first_beta,
            reweight=reweight,
            dropout=dropout,
            reverse_steps=1,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
        )
