from ._autoencoder import ShapeAutoencoder as ShapeAutoencoder
from ._config import AutoencoderConfig as AutoencoderConfig
from ._norms import replace_instance_norm as replace_instance_norm

__all__ = ["AutoencoderConfig", "ShapeAutoencoder", "replace_instance_norm"]
