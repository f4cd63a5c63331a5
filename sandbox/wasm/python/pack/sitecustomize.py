# WASI has no working folder: every program begins at "/". Spare's contract has one, and
# names it in PWD.
import os

try:
    os.chdir(os.environ["PWD"])
except (KeyError, OSError):
    pass
