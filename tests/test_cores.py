"""A limit of cores: decoders and nets together never use more at once."""

import threading
import time
from pathlib import Path

import psutil
import pytest

from stallscan import cores, workers
from stallscan.scale import plan as plans
from stallscan.scale import run
from stallscan.scale.place import FolderPlace
from tests import drawing, tasks
