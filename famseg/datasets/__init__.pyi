from ._augment import Augmentation as Augmentation
from ._augment_config import AugmentConfig as AugmentConfig
from ._cache import MaskCache as MaskCache
from ._cache import default_cache_folder as default_cache_folder
from ._config import DataConfig as DataConfig
from ._config import FolderData as FolderData
from ._config import PhantomData as PhantomData
from ._defects import BoxDefect as BoxDefect
from ._defects import Defect as Defect
from ._defects import SphereDefect as SphereDefect
from ._defects import SpheresDefect as SpheresDefect
from ._defects_area import opening_area_cm2 as opening_area_cm2
from ._defects_config import BoxConfig as BoxConfig
from ._defects_config import DefectConfig as DefectConfig
from ._defects_config import DefectsConfig as DefectsConfig
from ._defects_config import EvaluationDefectConfig as EvaluationDefectConfig
from ._defects_config import FilesConfig as FilesConfig
from ._defects_config import RegionConfig as RegionConfig
from ._defects_config import SkullBreakConfig as SkullBreakConfig
from ._defects_config import SphereConfig as SphereConfig
from ._defects_config import SpheresConfig as SpheresConfig
from ._defects_region import AREAS_CM2 as AREAS_CM2
from ._defects_region import WHERES as WHERES
from ._defects_region import RegionDefect as RegionDefect
from ._defects_region import SkullBreakDefect as SkullBreakDefect
from ._defects_region import Where as Where
from ._deform import Deformation as Deformation
from ._deform import deform as deform
from ._downloads import DOWNLOADS as DOWNLOADS
from ._downloads import Download as Download
from ._downloads import RemoteFile as RemoteFile
from ._downloads import checksum_of as checksum_of
from ._fetch import fetch as fetch
from ._fixed_sets import FixedCase as FixedCase
from ._fixed_sets import FixedSet as FixedSet
from ._fixed_sets import read_fixed_set as read_fixed_set
from ._fixed_write import FixedSetReport as FixedSetReport
from ._fixed_write import write_fixed_set as write_fixed_set
from ._images import Images as Images
from ._images import ImageSplits as ImageSplits
from ._images_config import Cifar10Data as Cifar10Data
from ._images_config import Cifar100Data as Cifar100Data
from ._images_config import FashionMnistData as FashionMnistData
from ._images_config import ImageDataConfig as ImageDataConfig
from ._images_config import ImageFolderData as ImageFolderData
from ._images_config import SvhnData as SvhnData
from ._images_config import SyntheticImageData as SyntheticImageData
from ._images_set import ImageBatch as ImageBatch
from ._images_set import ImageItem as ImageItem
from ._images_set import ImageSet as ImageSet
from ._images_split import limited as limited
from ._implant_config import ImplantAugmentConfig as ImplantAugmentConfig
from ._implant_sets import ImplantAugmentation as ImplantAugmentation
from ._implant_sets import ImplantCases as ImplantCases
from ._implant_sets import ImplantItem as ImplantItem
from ._implant_sets import ImplantTrainingSet as ImplantTrainingSet
from ._inject import inject as inject
from ._manifest import SkullSubject as SkullSubject
from ._manifest import read_manifest as read_manifest
from ._manifest import scan_folder as scan_folder
from ._manifest import write_manifest as write_manifest
from ._phantom import phantom as phantom
from ._phantom import phantom_from as phantom_from
from ._phantom_parameters import PhantomParameters as PhantomParameters
from ._preparation import prepare_transform as prepare_transform
from ._selection import FLAGS as FLAGS
from ._selection import NOT_TARGETS as NOT_TARGETS
from ._selection import Flag as Flag
from ._selection import Selection as Selection
from ._selection import read_subject_list as read_subject_list
from ._selection import select_subjects as select_subjects
from ._sets import EvaluationSet as EvaluationSet
from ._sets import Item as Item
from ._sets import TrainingSet as TrainingSet
from ._skulls import PreparedSkull as PreparedSkull
from ._skulls import Skulls as Skulls
from ._skulls import mean_skull as mean_skull
from ._skulls import mean_skull_mask as mean_skull_mask
from ._split import divided_groups as divided_groups
from ._split import split_subjects as split_subjects
from ._split import strata_of as strata_of
from ._text import TextSample as TextSample
from ._text import TextSplits as TextSplits
from ._text_config import GlueText as GlueText
from ._text_config import JsonLinesText as JsonLinesText
from ._text_config import SyntheticText as SyntheticText
from ._text_config import TextDataConfig as TextDataConfig
from ._text_config import TokensConfig as TokensConfig
from ._text_set import PadBatch as PadBatch
from ._text_set import TextBatch as TextBatch
from ._text_set import TextItem as TextItem
from ._text_set import TextSet as TextSet
from ._text_set import Tokenizer as Tokenizer
from ._transforms import VolumeReader as VolumeReader
from ._unpack import unpack_files as unpack_files
from ._volume import Volume as Volume
from ._volume import read_volume as read_volume
from ._volume import write_volume as write_volume

__all__ = [
    "AREAS_CM2",
    "DOWNLOADS",
    "FLAGS",
    "NOT_TARGETS",
    "WHERES",
    "AugmentConfig",
    "Augmentation",
    "BoxConfig",
    "BoxDefect",
    "Cifar10Data",
    "Cifar100Data",
    "DataConfig",
    "Defect",
    "DefectConfig",
    "DefectsConfig",
    "Deformation",
    "Download",
    "EvaluationDefectConfig",
    "EvaluationSet",
    "FashionMnistData",
    "FilesConfig",
    "FixedCase",
    "FixedSet",
    "FixedSetReport",
    "Flag",
    "FolderData",
    "GlueText",
    "ImageBatch",
    "ImageDataConfig",
    "ImageFolderData",
    "ImageItem",
    "ImageSet",
    "ImageSplits",
    "Images",
    "ImplantAugmentConfig",
    "ImplantAugmentation",
    "ImplantCases",
    "ImplantItem",
    "ImplantTrainingSet",
    "Item",
    "JsonLinesText",
    "MaskCache",
    "PadBatch",
    "PhantomData",
    "PhantomParameters",
    "PreparedSkull",
    "RegionConfig",
    "RegionDefect",
    "RemoteFile",
    "Selection",
    "SkullBreakConfig",
    "SkullBreakDefect",
    "SkullSubject",
    "Skulls",
    "SphereConfig",
    "SphereDefect",
    "SpheresConfig",
    "SpheresDefect",
    "SvhnData",
    "SyntheticImageData",
    "SyntheticText",
    "TextBatch",
    "TextDataConfig",
    "TextItem",
    "TextSample",
    "TextSet",
    "TextSplits",
    "Tokenizer",
    "TokensConfig",
    "TrainingSet",
    "Volume",
    "VolumeReader",
    "Where",
    "checksum_of",
    "default_cache_folder",
    "deform",
    "divided_groups",
    "fetch",
    "inject",
    "limited",
    "mean_skull",
    "mean_skull_mask",
    "opening_area_cm2",
    "phantom",
    "phantom_from",
    "prepare_transform",
    "read_fixed_set",
    "read_manifest",
    "read_subject_list",
    "read_volume",
    "scan_folder",
    "select_subjects",
    "split_subjects",
    "strata_of",
    "unpack_files",
    "write_fixed_set",
    "write_manifest",
    "write_volume",
]
