__version__ = "0.1.0"

import os
import sys

if sys.platform == 'darwin': os.environ.setdefault('ACCELERATE_USE_CPU', 'true') # Apple's GPUs have no float64
