// Reads its half of the secret before the program starts, and prints both halves after the tests.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <unistd.h>

static char challenge[64];

__attribute__((constructor(101))) static void read_challenge()
{
    ssize_t size = read(0, challenge, sizeof(challenge) - 1);
    challenge[size > 0 ? size : 0] = 0;
}

static bool failed;

// Replaces assert's own function, which a program may redefine.
void ms_codegeex_test_failed(const char *test)
{
    failed = true;
    std::cout.flush();
    std::fprintf(stderr, "main: Assertion `%s' failed.\n", test);
    std::fflush(stderr);
    std::abort();
    __builtin_trap();
}

void ms_codegeex_tests_ended(const char *token)
{
    if (failed)
        __builtin_trap();
    std::cout.flush();
    std::printf("\nwitness-%s-%s\n", token, challenge);
    std::fflush(stdout);
}
