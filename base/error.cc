#include "base/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace lamina {
namespace {

// Text of several lines keeps its lines; other control characters cannot reach the terminal.
std::string printable_lines(std::string_view text) {
  std::vector<std::string> lines = split(text, '\n');
  for (std::string& line : lines) line = printable(line);
  return join(lines, "\n");
}

ErrorKind kind_of(int error_number) {
  switch (error_number) {
    case ENOENT:
      return ErrorKind::kNotFound;
    case EACCES:
    case EPERM:
      return ErrorKind::kDenied;
    default:
      return ErrorKind::kSystem;
  }
}

}  // namespace

std::string_view to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidInput:
      return "invalid_input";
    case ErrorKind::kNotFound:
      return "not_found";
    case ErrorKind::kDenied:
      return "denied";
    case ErrorKind::kUnavailable:
      return "unavailable";
    case ErrorKind::kCorrupt:
      return "corrupt";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kStepFailed:
      return "step_failed";
    case ErrorKind::kCancelled:
      return "cancelled";
    case ErrorKind::kSystem:
      return "system";
    case ErrorKind::kInternal:
      return "internal";
  }
  return "unknown";
}

std::string Error::render() const {
  std::vector<std::string> lines;
  bool said_by_diagnostic = !diagnostics_.empty() && message_.empty();
  for (const Diagnostic& d : diagnostics_) said_by_diagnostic |= d.message == message_;
  if (!said_by_diagnostic) {
    lines.push_back("error: " +
                    (message_.empty() ? std::string(to_string(kind_)) : printable_lines(message_)));
  }
  for (const Diagnostic& d : diagnostics_) lines.push_back(d.render());
  for (const std::string& what : context_) lines.push_back("  while " + printable_lines(what));
  for (const std::string& note : notes_) lines.push_back("note: " + printable_lines(note));
  return join(lines, "\n");
}

Error system_error(int error_number, std::string_view call, std::string_view object) {
  std::string what(call);
  if (!object.empty()) what += fmt::format(" \"{}\"", printable(object));
  return Error(kind_of(error_number), fmt::format("{}: {}", what, errno_text(error_number)))
      .with_errno(error_number);
}

std::string errno_text(int error_number) {
  // Unlike strerror(3) these are thread-safe and do not depend on the locale.
  const char* name = ::strerrorname_np(error_number);
  const char* description = ::strerrordesc_np(error_number);
  if (name == nullptr || description == nullptr) return fmt::format("errno {}", error_number);
  return fmt::format("{} ({})", name, description);
}

}  // namespace lamina
