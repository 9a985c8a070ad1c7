// What goes to standard output and to files that the user names.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"

namespace lamina::cli {

// To standard output. A failure is kept for output_error(), so that no caller can forget it. The main thread only.
void print(const std::string& text);
// Why something printed did not arrive (a full disk, a closed descriptor); nothing when all did, or when the reader has
// gone (EPIPE), as `| head` does.
std::optional<Error> output_error();
// --iidfile and its like: see write_output_file.
Result<void> write_text(const std::string& path, const std::string& text);

}  // namespace lamina::cli
