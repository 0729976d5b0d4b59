"""Surface meshes in mm: creation from masks and files, measurement, booleans and export."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
