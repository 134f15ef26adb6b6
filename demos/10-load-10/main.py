n = int(input())
print(n, "squared is", n * n)
