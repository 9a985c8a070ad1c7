// What can go wrong, as a value. See ARCHITECTURE.md, "Errors".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/diagnostic.h"

namespace lamina {

// Code branches on the kind, never on the text.
enum class ErrorKind {
  kInvalidInput,  // the command line or the Dockerfile is wrong
  kNotFound,      // a file, image, tag or stage that was asked for does not exist
  kDenied,        // permission or credentials
  kUnavailable,   // network or registry cannot be reached now; a retry may help
  kCorrupt,       // bytes do not match their digest or format
  kUnsupported,   // valid, but this program or kernel cannot do it
  kStepFailed,    // a RUN command ended with a status other than 0
  kCancelled,     // interrupted
  kSystem,        // a system call failed
  kInternal,      // a bug in this program
};

std::string_view to_string(ErrorKind kind);

// An immutable-ish value: built once where the failure is seen, given context on the way up.
class Error {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}

  ErrorKind kind() const { return kind_; }
  const std::string& message() const { return message_; }
  // The errno that caused it, or 0.
  int error_number() const { return errno_; }
  // What the callers were doing, innermost first.
  const std::vector<std::string>& context() const { return context_; }
  // Advice and facts, each printed as a "note:" line.
  const std::vector<std::string>& notes() const { return notes_; }
  // Places in the Dockerfile that the error is about; each is rendered with its excerpt.
  const std::vector<Diagnostic>& diagnostics() const { return diagnostics_; }
  // Exit status of the failed command for kStepFailed (128 + signal when it was killed); else 0.
  int exit_status() const { return exit_status_; }

  // By value, not Error&&: `error = std::move(error).with_note(…)` must not be a move onto itself.
  Error with_errno(int e) && {
    errno_ = e;
    return std::move(*this);
  }
  Error with_context(std::string what) && {
    context_.push_back(std::move(what));
    return std::move(*this);
  }
  Error with_note(std::string note) && {
    notes_.push_back(std::move(note));
    return std::move(*this);
  }
  Error with_diagnostic(Diagnostic d) && {
    diagnostics_.push_back(std::move(d));
    return std::move(*this);
  }
  Error with_exit_status(int s) && {
    exit_status_ = s;
    return std::move(*this);
  }

  // The whole text as printed on a terminal, without a trailing newline:
  // message, diagnostics with excerpts, "  while …" lines, "note: …" lines.
  std::string render() const;

 private:
  ErrorKind kind_;
  int errno_ = 0;
  int exit_status_ = 0;
  std::string message_;
  std::vector<std::string> context_;
  std::vector<std::string> notes_;
  std::vector<Diagnostic> diagnostics_;
};

// "openat \"a/b\": ENOENT (No such file or directory)". Take errno in the next expression after the
// call. The kind follows the errno: ENOENT is kNotFound, EACCES and EPERM kDenied, else kSystem.
Error system_error(int error_number, std::string_view call, std::string_view object = {});

// The symbolic and the long name: "ENOENT (No such file or directory)".
std::string errno_text(int error_number);

}  // namespace lamina
