#include "cli/output.h"

#include <unistd.h>

#include <cerrno>

#include "base/files.h"

namespace lamina::cli {

namespace {
std::optional<Error>& kept_error() {
  static std::optional<Error> error;
  return error;
}
}  // namespace

void print(const std::string& text) {
  auto written = write_all(STDOUT_FILENO, text);
  if (!written && written.error().error_number() != EPIPE && !kept_error()) kept_error() = std::move(written).error().with_context("writing to standard output");
}

std::optional<Error> output_error() { return kept_error(); }

Result<void> write_text(const std::string& path, const std::string& text) {
  return write_output_file(path, [&](int fd) { return write_all(fd, text); });
}

}  // namespace lamina::cli
