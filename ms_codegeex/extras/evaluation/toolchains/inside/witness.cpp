// Reads its half of the secret before the program starts, and prints both halves after the tests; writes values. What
// the program itself prints goes to standard error.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <unistd.h>

static char challenge[64];
static int ours = 1;

__attribute__((constructor(101))) static void read_challenge()
{
    ssize_t size = read(0, challenge, sizeof(challenge) - 1);
    challenge[size > 0 ? size : 0] = 0;
    ours = dup(1);
    dup2(2, 1);
}

void ms_codegeex_write(const std::string &text)
{
    for (size_t at = 0; at < text.size();)
    {
        const ssize_t size = write(ours, text.data() + at, text.size() - at);
        if (size <= 0)
            std::abort();
        at += size;
    }
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
    ms_codegeex_write("\nwitness-" + std::string(token) + "-" + challenge + "\n");
}
