import sys

line = b"0123456789abcdef" * 64  # 1 KiB
for _ in range(12 * 1024):
    sys.stdout.buffer.write(line)
