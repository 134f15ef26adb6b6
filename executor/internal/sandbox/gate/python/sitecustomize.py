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


def fork(fd):
    """Returns in a copy of this interpreter, with the descriptor of its release
    and what sets its limits. Only what they hold is left of the modules."""
    modules, importers = set(sys.modules), set(sys.path_importer_cache)
    sys.path.insert(0, here)
    import crucible_zygote as zygote
    sys.path.remove(here)
    fd = zygote.serve(fd)
    # What is frozen is not collected: objects of the program would not see
    # their __del__ at the end, if they lay in a __main__ from before.
    main = type(sys)("__main__")
    main.__dict__.update(sys.modules["__main__"].__dict__, __annotations__={})
    sys.modules["__main__"] = main
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for name in set(sys.path_importer_cache) - importers:
        del sys.path_importer_cache[name]
    return fd, zygote.limit


def apply(release, limit=None):
    limits, args = int(release[0]), int(release[1])
    if limit:
        limit(release[2:2 + limits])
    args, env = release[2 + limits:2 + limits + args], release[2 + limits + args:]
    more = [os.fsdecode(arg) for arg in args]
    sys.argv += more
    sys.orig_argv += more
    for entry in env:
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
    limit = None
    try:
        if gate.startswith("fork "):
            gate, limit = fork(int(gate[5:]))
        apply(wait(int(gate)), limit)
    except BaseException:
        os._exit(1)

if native is not None:
    raise native
