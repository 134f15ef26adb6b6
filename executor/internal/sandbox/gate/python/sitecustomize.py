"""Holds a started interpreter until its program is there.

Found by way of PYTHONPATH, in place of a sitecustomize of the machine, which
is run first. Nothing of it is left when the program runs: the import of this
module fails in the end as it does where there is none, which site expects.
"""

import os
import sys


def wait(fd):
    """Returns what the release says; without one, the interpreter is not needed."""
    text = b""
    while True:
        more = os.read(fd, 1 << 16)
        if not more:
            break
        text += more
    if not text:
        os._exit(0)
    os.close(fd)
    return text.split(b"\0")[:-1]


def apply(release):
    args = int(release[0]) + 1
    more = [os.fsdecode(arg) for arg in release[1:args]]
    sys.argv += more
    sys.orig_argv += more
    for entry in release[args:]:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value


here = os.path.dirname(__file__)
sys.path.remove(here)
sys.path_importer_cache.pop(here, None)
os.environ.pop("PYTHONPATH", None)
gate = os.environ.pop("CRUCIBLE_GATE", None)

# The one of the machine, or the error that there is none.
del sys.modules["sitecustomize"]
try:
    import sitecustomize
except BaseException as error:
    native = error
else:
    native = None

if gate is not None:
    try:
        apply(wait(int(gate)))
    except BaseException:
        os._exit(1)

if native is not None:
    raise native
