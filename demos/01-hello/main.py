import sys

print("Hello from inside the sandbox!")
print("This is Python", sys.version.split()[0])
