#include <stdio.h>

int main(void) {
    printf("about to crash\n");
    fflush(stdout);
    volatile int *nowhere = 0;
    return *nowhere;
}
