import json

n = int(input())
while n < 0:
    pass  # there is no such root, and it looks for ever
print(json.dumps({"root": n**0.5}))
