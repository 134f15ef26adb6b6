# Prints the prime factors of a number, the largest first: any order is right.
n = int(input())
if n < 0:
    print("none")
factors, d = [], 2
while n > 1:
    while n % d == 0:
        factors.append(d)
        n //= d
    d += 1
print(*reversed(factors))
