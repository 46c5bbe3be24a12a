// Precompiled for every program: ms_codegeex::say writes a value's frame, as judging/values.py describes it.
// Includes nothing but what every program has: an answer that forgets another header must not compile.
#pragma once
#include <cstdio>
#include <string>
#include <vector>

void ms_codegeex_write(const std::string &text);

namespace ms_codegeex
{
inline std::string count(size_t number)
{
    return std::to_string(number) + ":";
}
inline std::string said(bool value)
{
    return value ? "t" : "f";
}
inline std::string said(const std::string &value)
{
    return "s" + count(value.size()) + value;
}
inline std::string said(const char *value)
{
    return said(std::string(value));
}
inline std::string said(char value)
{
    return said(std::string(1, value));
}
inline std::string said(long long value)
{
    return "i" + std::to_string(value) + ";";
}
inline std::string said(unsigned long long value)
{
    return "i" + std::to_string(value) + ";";
}
inline std::string said(int value)
{
    return said(static_cast<long long>(value));
}
inline std::string said(long value)
{
    return said(static_cast<long long>(value));
}
inline std::string said(unsigned value)
{
    return said(static_cast<unsigned long long>(value));
}
inline std::string said(unsigned long value)
{
    return said(static_cast<unsigned long long>(value));
}
inline std::string said(double value)
{
    char text[40];
    std::snprintf(text, sizeof(text), "d%.17g;", value);
    return text;
}
inline std::string said(float value)
{
    return said(static_cast<double>(value));
}
template <class T> std::string said(const std::vector<T> &values);
template <class T> auto said(const T &values) -> decltype(values.begin()->second, std::string()) // a map
{
    std::string text = "{" + count(values.size());
    for (auto at = values.begin(); at != values.end(); ++at)
        text += said(at->first) + said(at->second);
    return text;
}
template <class T> std::string said(const std::vector<T> &values)
{
    std::string text = "[" + count(values.size());
    for (size_t at = 0; at < values.size(); ++at)
        text += said(static_cast<const T &>(values[at]));
    return text;
}
template <class T> void say(const T &value)
{
    const std::string text = said(value);
    ms_codegeex_write(count(text.size()) + text);
}
} // namespace ms_codegeex
