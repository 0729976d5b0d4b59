from ._autoencoder import ShapeAutoencoder as ShapeAutoencoder
from ._classifier import Classifier as Classifier
from ._classifier_config import ClassifierConfig as ClassifierConfig
from ._classifier_config import ConvNetConfig as ConvNetConfig
from ._classifier_config import EfficientNetConfig as EfficientNetConfig
from ._classifier_config import MonaiConfig as MonaiConfig
from ._classifier_config import ResNet18Config as ResNet18Config
from ._classifier_config import WideResNetConfig as WideResNetConfig
from ._config import AutoencoderConfig as AutoencoderConfig
from ._convnet import convnet as convnet
from ._efficientnet import efficientnet as efficientnet
from ._implant_config import ImplantModelConfig as ImplantModelConfig
from ._implant_config import SegResNetConfig as SegResNetConfig
from ._implant_config import UNetConfig as UNetConfig
from ._implant_network import ImplantNetwork as ImplantNetwork
from ._monai_network import monai_network as monai_network
from ._norms import replace_instance_norm as replace_instance_norm
from ._residual import resnet18 as resnet18
from ._text_check import check_tokens as check_tokens
from ._text_classifier import TextClassifier as TextClassifier
from ._text_config import TextModelConfig as TextModelConfig
from ._text_config import TinyBertConfig as TinyBertConfig
from ._text_config import TransformerConfig as TransformerConfig
from ._text_load import pretrained_classifier as pretrained_classifier
from ._text_load import pretrained_tokenizer as pretrained_tokenizer
from ._text_load import tiny_bert as tiny_bert
from ._text_tokens import ByteTokenizer as ByteTokenizer
from ._text_tokens import PretrainedTokenizer as PretrainedTokenizer
from ._wide_resnet import WideResNet as WideResNet
from ._wide_resnet import wide_resnet as wide_resnet

__all__ = [
    "AutoencoderConfig",
    "ByteTokenizer",
    "Classifier",
    "ClassifierConfig",
    "ConvNetConfig",
    "EfficientNetConfig",
    "ImplantModelConfig",
    "ImplantNetwork",
    "MonaiConfig",
    "PretrainedTokenizer",
    "ResNet18Config",
    "SegResNetConfig",
    "ShapeAutoencoder",
    "TextClassifier",
    "TextModelConfig",
    "TinyBertConfig",
    "TransformerConfig",
    "UNetConfig",
    "WideResNet",
    "WideResNetConfig",
    "check_tokens",
    "convnet",
    "efficientnet",
    "monai_network",
    "pretrained_classifier",
    "pretrained_tokenizer",
    "replace_instance_norm",
    "resnet18",
    "tiny_bert",
    "wide_resnet",
]
