import socket


def attempt(what, do):
    try:
        do()
        print(what, "REACHED")
    except OSError:
        print(what, "blocked")


def connect(host, port):
    socket.create_connection((host, port), timeout=2).close()


attempt("the internet:", lambda: connect("1.1.1.1", 443))
attempt("a name server:", lambda: socket.getaddrinfo("example.com", 443))
attempt("a cloud's metadata:", lambda: connect("169.254.169.254", 80))
attempt("the host's Redis:", lambda: connect("127.0.0.1", 6379))
attempt("a raw socket:", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
