"""DiffMM's driver, on a checkout that has its names and next to nothing behind them."""

import textwrap

from bench.speed.peers.peer import match
from bench.speed.peers.process import run_driver
from bench.speed.peers.registry import find_peer

CHECKOUT = {
    "Params.py": """
        import argparse

        # Read when imported, as in DiffMM.
        parser = argparse.ArgumentParser()
        for name in ("data", "dims"):
            parser.add_argument("--" + name)
        parser.add_argument("--seed", type=int)
        parser.add_argument("--keepRate", type=float)
        args, rest = parser.parse_known_args()
        """,
    "Model.py": "",
    "DataHandler.py": """
        import pickle
        import numpy as np
        from Params import args

        class DataHandler:
            def LoadData(self):
                folder = f"./Datasets/{args.data}/"
                with open(folder + "trnMat.pkl", "rb") as train, open(folder + "tstMat.pkl", "rb") as valid:
                    self.train, self.valid = pickle.load(train), pickle.load(valid)
                assert self.train.A.sum() > self.valid.A.sum() > 0
                self.features = [np.load(folder + name) for name in ("image_feat.npy", "text_feat.npy")]
        """,
    "Main.py": """
        import time
        import setproctitle
        import torch
        from DataHandler import DataHandler
        from Params import args, rest

        assert (args.dims, args.keepRate) == ("[20]", 0.75), args
        assert "--steps=5" in rest and "--trans=1" in rest

        def seed_it(seed):
            assert seed == args.seed

        class Coach:
            def __init__(self, handler):
                self.handler, self.epochs = handler, []

            def prepareModel(self):
                assert torch.nn.Linear(2, 2).cuda().weight.cuda().device.type == "cpu"
                time.sleep(0.1)

            def trainEpoch(self):
                self.epochs.append("train")
                time.sleep(0.05)

            def testEpoch(self):
                assert self.epochs.pop() == "train"
                time.sleep(0.02)
        """,
}


def test_the_driver(toy, tmp_path):
    checkout, data = tmp_path / "checkout", tmp_path / "data"
    checkout.mkdir()
    for name, text in CHECKOUT.items():
        (checkout / name).write_text(textwrap.dedent(text))
    diffmm = find_peer("diffmm")
    given = ["diffmm.hidden_dim=20", "diffmm.edge_dropout=0.25", "diffmm.projection=linear"]
    (found,) = match(diffmm, ["diffmm"], given, "toy")
    diffmm.write(toy, data, found.theirs)
    source = diffmm.locate(checkout)
    job = {"source": source, "data": str(data), "parameters": found.parameters, "epochs": 2}
    readings = run_driver(diffmm.driver, job)
    assert readings.build_s >= 0.1
    assert len(readings.epoch_s) == len(readings.valid_s) == 2
    assert min(readings.epoch_s) >= 0.05
    assert min(readings.valid_s) >= 0.02
    assert sorted(path.name for path in checkout.iterdir()) == sorted(CHECKOUT), "nothing is written there"
