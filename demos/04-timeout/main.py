import time

print("going to sleep for a minute", flush=True)
time.sleep(60)
print("never printed")
