from .dataset import Dataset as Dataset
from .folder import load_folder as load_folder
from .npz import load_npz as load_npz
from .own import has_test_split as has_test_split
from .own import load_own as load_own
from .resolve import load as load
from .spec import SPECS as SPECS
from .tfds_named import load_tfds as load_tfds
