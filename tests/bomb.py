"""A pickle that makes a folder when it is loaded, in every form that pickles come in."""

import os
import pickle

import numpy as np
import torch

FORMS = ("pickle", "torch", "torch, in a state dict", "torch, old", "npy")


class Bomb:
    """What it is pickled as makes the folder `path`."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def write(path, form, mark):
    """Write a file that makes the folder `mark` where it is unpickled."""
    bomb = Bomb(mark)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif form == "torch":
        torch.save(bomb, path)
    elif form == "torch, in a state dict":
        torch.save({"epoch": 0, "state_dict": {"w": torch.zeros(1)}, "more": bomb}, path)
    elif form == "torch, old":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    else:
        with path.open("wb") as file:
            np.save(file, np.array([bomb], dtype=object), allow_pickle=True)
    return path
