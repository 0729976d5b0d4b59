from ._parameters import PhantomParameters as PhantomParameters
from ._phantom import PHANTOM_VERSION as PHANTOM_VERSION
from ._phantom import phantom as phantom
from ._phantom import phantom_from as phantom_from
