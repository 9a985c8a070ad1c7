// The first byte chooses what the rest is: a --mount value, the flags of an instruction, or the argument of another
// small grammar.
#include <array>
#include <string>

#include "base/text.h"
#include "fuzz/fuzz.h"
#include "parser/instructions.h"
#include "parser/mount.h"

using namespace lamina;

namespace {

std::optional<std::string> lookup(std::string_view name) { return name == "a" ? std::optional<std::string>("/x") : std::nullopt; }

void mount(const std::string& text) {
  const auto mount = parser::parse_mount(text, lookup);
  if (!mount) {
    fuzz::require(!mount.error().message().empty(), "an error has a text");
    return;
  }
  fuzz::require(parser::mount_from(text).value_or("") == mount->from, "the graph and the step see the same from");
  const bool needs_target = mount->type != parser::MountType::kSecret && mount->type != parser::MountType::kSsh;
  fuzz::require(!needs_target || !mount->target.empty(), "a mount has a target");
}

void flags(const std::string& text) {
  static constexpr std::array kInstructions = {"RUN ", "COPY ", "ADD ", "FROM ", "HEALTHCHECK ", "ONBUILD RUN ", "EXPOSE "};
  for (const char* instruction : kInstructions) {
    const auto parsed = parser::parse_dockerfile("Dockerfile", std::string("FROM scratch\n") + instruction + text);
    for (const Diagnostic& d : parsed.diagnostics) fuzz::require(!d.render().empty(), "a diagnostic has a text");
  }
}

void ports(const std::string& text) {
  const auto ports = parser::parse_ports(split(text, ' '));
  if (!ports) return;
  for (size_t i = 1; i < ports->ports.size(); ++i) fuzz::require(ports->ports[i - 1] < ports->ports[i], "ports are sorted and named once");
}

void mode(const std::string& text) {
  const auto mode = parser::ModeChange::parse(text);
  if (!mode) return;
  for (const uint32_t bits : {0U, 0644U, 07777U}) {
    fuzz::require(mode->apply(bits, false) <= 07777 && mode->apply(bits, true) <= 07777, "a mode has 12 bits");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::text_of(data + 1, size - 1));
  switch (data[0] % 4) {
    case 0: mount(text); break;
    case 1: flags(text); break;
    case 2: ports(text); break;
    default:
      mode(text);
      static_cast<void>(parser::valid_signal(text));
      break;
  }
  return 0;
}
