print("taking memory until there is none", flush=True)
held = []
while True:
    held.append(bytearray(8 << 20))
