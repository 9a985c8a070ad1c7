#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/files.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace lamina::cli {

// As docker run: 125 when we fail, 127 when the command is not found, 126 when it cannot be executed.
int run_command(const std::vector<std::string>& arguments, const Session& session) {
  auto parsed = parse_run(arguments);
  if (!parsed) return report(parsed.error());
  if (parsed->help) {
    print(parsed->help->text);
    return 0;
  }
  auto store = layers::Store::open(store_path(parsed->options.common, session.isolation == builder::Isolation::kRoot));
  if (!store) {
    report(store.error());
    return 125;
  }
  const auto status = builder::run_image(**store, parsed->options.request, session.stop);
  if (status) return status->shell_code();
  report(status.error());
  const std::string& message = status.error().message();
  if (message.compare(0, 6, "exec \"") == 0) return status.error().kind() == ErrorKind::kNotFound ? 127 : 126;
  return 125;
}

int version_command(const std::vector<std::string>& arguments) {
  std::string text = fmt::format("build (Lamina) {}\n", LAMINA_VERSION);
  if (!arguments.empty()) {
    utsname name{};
    ::uname(&name);
    text += fmt::format("store format: lamina-store 1\nkernel: {} {} {}\nplatform: {}\n", name.sysname, name.release, name.machine, oci::Platform::host().text());
  }
  print(text);
  return 0;
}

}  // namespace lamina::cli
