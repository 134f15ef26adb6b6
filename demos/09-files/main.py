import os


def attempt(what, do):
    try:
        do()
        print(what, "ALLOWED")
    except OSError:
        print(what, "refused")


def write(path):
    with open(path, "w") as f:
        f.write("x")


attempt("read the password hashes:", lambda: open("/etc/shadow").read())
attempt("list the logs of the host:", lambda: os.listdir("/var/log"))
attempt("read another process's memory:", lambda: open("/proc/1/mem", "rb").read(1))
attempt("change a program of the system:", lambda: write("/usr/bin/python3"))
attempt("mount something:", lambda: os.mknod("/tmp/disk", 0o060600, os.makedev(8, 0)))
attempt("become root:", lambda: os.setuid(0))

with open("notes.txt", "w") as f:  # its own folder is its own
    f.write("mine")
print("write into its own folder:", open("notes.txt").read())
