from ._errors import InputError as InputError
from ._errors import RunError as RunError
