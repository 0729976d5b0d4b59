from ._cache import MaskCache as MaskCache
from ._cache import default_cache_folder as default_cache_folder
from ._config import BoxConfig as BoxConfig
from ._config import DataConfig as DataConfig
from ._config import DefectConfig as DefectConfig
from ._config import DefectsConfig as DefectsConfig
from ._config import FolderData as FolderData
from ._config import PhantomData as PhantomData
from ._config import SphereConfig as SphereConfig
from ._config import SpheresConfig as SpheresConfig
from ._defects import BoxDefect as BoxDefect
from ._defects import Defect as Defect
from ._defects import SphereDefect as SphereDefect
from ._defects import SpheresDefect as SpheresDefect
from ._inject import inject as inject
from ._manifest import SkullSubject as SkullSubject
from ._manifest import read_manifest as read_manifest
from ._manifest import scan_folder as scan_folder
from ._manifest import write_manifest as write_manifest
from ._phantom import phantom as phantom
from ._phantom import phantom_from as phantom_from
from ._phantom_parameters import PhantomParameters as PhantomParameters
from ._preparation import prepare_transform as prepare_transform
from ._sets import EvaluationSet as EvaluationSet
from ._sets import Item as Item
from ._sets import TrainingSet as TrainingSet
from ._skulls import PreparedSkull as PreparedSkull
from ._skulls import Skulls as Skulls
from ._skulls import mean_skull as mean_skull
from ._skulls import mean_skull_mask as mean_skull_mask
from ._split import split_subjects as split_subjects
from ._transforms import VolumeReader as VolumeReader
from ._volume import Volume as Volume
from ._volume import read_volume as read_volume
from ._volume import write_volume as write_volume

__all__ = [
    "BoxConfig",
    "BoxDefect",
    "DataConfig",
    "Defect",
    "DefectConfig",
    "DefectsConfig",
    "EvaluationSet",
    "FolderData",
    "Item",
    "MaskCache",
    "PhantomData",
    "PhantomParameters",
    "PreparedSkull",
    "SkullSubject",
    "Skulls",
    "SphereConfig",
    "SphereDefect",
    "SpheresConfig",
    "SpheresDefect",
    "TrainingSet",
    "Volume",
    "VolumeReader",
    "default_cache_folder",
    "inject",
    "mean_skull",
    "mean_skull_mask",
    "phantom",
    "phantom_from",
    "prepare_transform",
    "read_manifest",
    "read_volume",
    "scan_folder",
    "split_subjects",
    "write_manifest",
    "write_volume",
]
