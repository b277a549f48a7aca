from .dataset import Dataset as Dataset
from .folder import load_folder as load_folder
from .npz import load_npz as load_npz
from .resolve import load as load
from .spec import SPECS as SPECS
from .tfds_named import load_tfds as load_tfds
