import sys

print("working ...", flush=True)
print("a word on stderr", file=sys.stderr, flush=True)
print(1 / 0)
