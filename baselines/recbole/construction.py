"""Construct a model of RecBole's from a training matrix: its `Config`, a dataset that lies in memory, its class.

Importing this imports RecBole; do both inside `compatibility.surroundings`.

RecBole counts users and items from 1 and keeps 0 as padding, so every index is shifted by one here.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model import general_recommender
from recbole.utils.enum_type import FeatureSource, FeatureType
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.recbole.defaults import yaml_loader

# Any name does that is not one of RecBole's own data sets, which would bring settings of their own.
DATASET = "training_matrix"


class QuietConfig(Config):  # type: ignore[misc]
    """RecBole's settings with its defaults, kept from everything outside: arguments, environment, NumPy, YAML.

    Args:
        model: the model's class.
        values: hyper-parameters by RecBole's names, each of its final type.
    """

    def __init__(self, model: type, values: Mapping[str, Any]) -> None:
        super().__init__(model=model, dataset=DATASET, config_dict=dict(values))

    def compatibility_settings(self) -> None:
        """Leave NumPy as it is: the names that would be put back are not used here."""

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _build_yaml_loader(self) -> type[Any]:
        return yaml_loader()

    def _init_device(self) -> None:
        self.final_config_dict["device"] = torch.device("cpu")
        self.final_config_dict["single_spec"] = True
        self.final_config_dict["local_rank"] = 0


class TrainingData(Dataset):  # type: ignore[misc]
    """RecBole's dataset around a training matrix, nothing read and nothing written.

    Args:
        config: names the fields.
        interactions: training matrix, [n_users, n_items], binary.
    """

    def __init__(self, config: Config, interactions: csr_array) -> None:
        self.config, self.dataset_name = config, config["dataset"]
        self.logger = logging.getLogger()
        self._get_preset()
        self._get_field_from_config()
        fields = (self.uid_field, FeatureSource.USER_ID), (self.iid_field, FeatureSource.ITEM_ID)
        for (name, source), count in zip(fields, interactions.shape, strict=True):
            self.set_field_property(name, FeatureType.TOKEN, source, 1)
            self.field2id_token[name] = range(count + 1)
        self.user_feat = self.item_feat = None
        users, items = (torch.from_numpy(each.astype("int64") + 1) for each in interactions.tocoo().coords)
        self.inter_feat = Interaction({self.uid_field: users, self.iid_field: items})


def construct(name: str, interactions: csr_array, values: Mapping[str, Any]) -> nn.Module:
    """Return a model of RecBole's, constructed from a training matrix and all of its hyper-parameters.

    Args:
        name: its class among RecBole's general recommenders.
        interactions: training matrix, [n_users, n_items], binary.
        values: its hyper-parameters and RecBole's `seed` and `train_neg_sample_args`.
    """
    cls = getattr(general_recommender, name)
    config = QuietConfig(cls, values)
    model: nn.Module = cls(config, TrainingData(config, interactions))
    return model


def batch_of(fields: Mapping[str, Tensor]) -> Interaction:
    """Return tensors of one length as RecBole's models take them."""
    return Interaction(dict(fields))
