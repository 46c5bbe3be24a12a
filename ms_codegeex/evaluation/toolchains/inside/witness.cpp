// Reads its half of the secret before the program has begun, and prints it with the other half at the tests' end.
#include <cstdio>
#include <iostream>
#include <unistd.h>

static char challenge[64];

__attribute__((constructor(101))) static void read_challenge()
{
    ssize_t size = read(0, challenge, sizeof(challenge) - 1);
    challenge[size > 0 ? size : 0] = 0;
}

void ms_codegeex_tests_ended(const char *token)
{
    std::cout.flush();
    std::printf("\nwitness-%s-%s\n", token, challenge);
    std::fflush(stdout);
}
