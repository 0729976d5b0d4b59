from . import adapters as adapters
from . import config as config
from . import datasets as datasets
from . import engine as engine
from . import evaluation as evaluation
from . import export as export
from . import flatness as flatness
from . import meshes as meshes
from . import messages as messages
from . import metrics as metrics
from . import models as models
from . import objectives as objectives
from . import preparation as preparation
from . import reconstruction as reconstruction
from . import reporting as reporting
from . import runs as runs
from . import statistics as statistics
from . import sweep as sweep
from . import tracking as tracking
from . import volumes as volumes
from .flatness import FAM as FAM

__version__: str
