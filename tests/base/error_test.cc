#include "base/error.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <memory>

#include "base/result.h"

using namespace lamina;

TEST_CASE("system errors name the call, the object and the errno") {
  const Error e = system_error(ENOENT, "openat", "a/b");
  CHECK(e.message() == "openat \"a/b\": ENOENT (No such file or directory)");
  CHECK(e.kind() == ErrorKind::kNotFound);
  CHECK(e.error_number() == ENOENT);
  CHECK(system_error(EPERM, "mount").kind() == ErrorKind::kDenied);
  CHECK(system_error(EACCES, "mount").kind() == ErrorKind::kDenied);
  CHECK(system_error(EIO, "read").kind() == ErrorKind::kSystem);
  CHECK(system_error(EIO, "read").message() == "read: EIO (Input/output error)");
  CHECK(errno_text(99999) == "errno 99999");
}

TEST_CASE("an error without places") {
  const Error e = system_error(ENOSPC, "openat", "usr/bin/x")
                      .with_context("unpacking layer 3/7")
                      .with_context("running Dockerfile:12")
                      .with_note("free some space");
  CHECK(e.render() ==
        "error: openat \"usr/bin/x\": ENOSPC (No space left on device)\n"
        "  while unpacking layer 3/7\n"
        "  while running Dockerfile:12\n"
        "note: free some space");
  CHECK(Error(ErrorKind::kInternal, "").render() == "error: internal");
  CHECK(Error(ErrorKind::kSystem, "two\nlines \x1b[31m").render() ==
        "error: two\nlines \xef\xbf\xbd[31m");
}

TEST_CASE("an error with places") {
  Diagnostic d;
  d.file = "Dockerfile";
  d.range = {1, 1, 1, 4};
  d.message = "unknown instruction FRM";
  d.line_text = "FRM x";
  const std::string excerpt =
      "Dockerfile:1:1: error: unknown instruction FRM\n"
      "    1 | FRM x\n"
      "      | ^~~";
  CHECK(Error(ErrorKind::kInvalidInput, "").with_diagnostic(d).render() == excerpt);
  CHECK(Error(ErrorKind::kInvalidInput, d.message).with_diagnostic(d).render() == excerpt);
  CHECK(Error(ErrorKind::kInvalidInput, "1 error").with_diagnostic(d).with_note("n").render() ==
        "error: 1 error\n" + excerpt + "\nnote: n");
}

namespace {
Result<std::unique_ptr<int>> half(int n) {
  if (n % 2 != 0) return Error(ErrorKind::kInvalidInput, "odd");
  return std::make_unique<int>(n / 2);
}
Result<int> quarter(int n) {
  ASSIGN_OR_RETURN(const auto once, half(n));
  ASSIGN_OR_RETURN_WITH(const auto twice, half(*once), "halving again");
  return *twice;
}
Result<void> check_quarter(int n) {
  RETURN_IF_ERROR_WITH(quarter(n), "checking");
  return {};
}
}  // namespace

TEST_CASE("results carry values or errors upwards") {
  CHECK(quarter(8).value() == 2);
  CHECK(quarter(7).error().render() == "error: odd");
  CHECK(check_quarter(8).has_value());
  CHECK(check_quarter(6).error().render() == "error: odd\n  while halving again\n  while checking");
  CHECK(quarter(7).value_or(-1) == -1);
  const Result<std::string> converted = "text";
  CHECK(*converted == "text");
}
