"""Draws a plot and leaves some data; what it plants beside them brings nothing back."""
import os

os.makedirs("out/data")
points = " ".join(f"{x},{20 - x * x / 500:g}" for x in range(0, 101, 10))
with open("out/plot.svg", "w") as f:
    f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 20"><polyline points="{points}"/></svg>\n')
with open("out/data/squares.bin", "wb") as f:
    f.write(b"".join((n * n).to_bytes(8, "big") for n in range(50_000)))
os.symlink("/etc/passwd", "out/passwd")
os.symlink("/", "out/root")
os.mkfifo("out/pipe")
print("drawn")
