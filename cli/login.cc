// build login, build logout.
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <iostream>

#include "base/files.h"
#include "cli/internal/image_commands.h"
#include "registry/credentials.h"

namespace lamina::cli {

namespace {

// From the terminal, without echo.
Result<std::string> ask_password() {
  if (::isatty(STDIN_FILENO) == 0) return Error(ErrorKind::kInvalidInput, "there is no terminal to ask for the password").with_note("use --password-stdin");
  ignore_error(write_all(STDERR_FILENO, "Password: "), "standard error is gone");
  termios before{};
  ::tcgetattr(STDIN_FILENO, &before);
  termios silent = before;
  silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
  std::string line;
  std::getline(std::cin, line);
  ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
  ignore_error(write_all(STDERR_FILENO, "\n"), "standard error is gone");
  return line;
}

}  // namespace

Result<void> log_in(const ImageOptions& o, const Session& session) {
  const std::string host = o.names.empty() ? "docker.io" : o.names[0];
  registry::Credentials credentials;
  credentials.username = o.user_name;
  if (credentials.username.empty()) {
    if (o.password_stdin || ::isatty(STDIN_FILENO) == 0) return Error(ErrorKind::kInvalidInput, "the user name is missing").with_note("give it with --username");
    ignore_error(write_all(STDERR_FILENO, "Username: "), "standard error is gone");
    std::getline(std::cin, credentials.username);
  }
  if (o.password_stdin) {
    ASSIGN_OR_RETURN(credentials.password, read_fd(STDIN_FILENO, 1 << 20));
    while (!credentials.password.empty() && (credentials.password.back() == '\n' || credentials.password.back() == '\r')) credentials.password.pop_back();
  } else if (!o.password.empty()) {
    ignore_error(write_all(STDERR_FILENO, "warning: others can see --password in the list of processes; --password-stdin is safe\n"), "standard error is gone");
    credentials.password = o.password;
  } else {
    ASSIGN_OR_RETURN(credentials.password, ask_password());
  }
  // Asked first: a typing error should not wait for the next build.
  registry::Client client(client_options(o, session));
  ASSIGN_OR_RETURN_WITH(credentials, client.log_in(host, credentials), "logging in to " + host);
  RETURN_IF_ERROR(registry::store_credentials(o.common.auth_file, host, credentials));
  print("Credentials for " + host + " stored\n");
  return {};
}

Result<void> log_out(const ImageOptions& o) {
  const std::string host = o.names.empty() ? "docker.io" : o.names[0];
  ASSIGN_OR_RETURN(const bool erased, registry::erase_credentials(o.common.auth_file, host));
  print(erased ? "Credentials for " + host + " removed\n" : "There were no credentials for " + host + "\n");
  return {};
}

}  // namespace lamina::cli
