#include "builder/internal/emulation.h"

#include <fmt/format.h>

#include <initializer_list>
#include <set>
#include <vector>

#include "base/text.h"
#include "builder/sandbox.h"

namespace lamina::builder::internal {

namespace {

// elf(5), the parts that a loader reads; the machine code is exit(0) by the architecture's Linux system call ABI.
struct Machine {
  const char* architecture;
  uint16_t number;  // e_machine
  bool wide;        // ELFCLASS64
  bool big_endian;
  uint32_t flags;   // e_flags
  std::vector<uint8_t> code;
};

const std::vector<Machine>& machines() {
  static const std::vector<Machine> kMachines = {
      // mov $60,%eax; xor %edi,%edi; syscall
      {"amd64", 62, true, false, 0, {0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}},
      // mov $1,%eax; xor %ebx,%ebx; int $0x80
      {"386", 3, false, false, 0, {0xb8, 0x01, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80}},
      // mov x0,#0; mov x8,#93; svc #0
      {"arm64", 183, true, false, 0, {0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}},
      // mov r0,#0; mov r7,#1; svc 0 (EABI 5)
      {"arm", 40, false, false, 0x05000200, {0x00, 0x00, 0xa0, 0xe3, 0x01, 0x70, 0xa0, 0xe3, 0x00, 0x00, 0x00, 0xef}},
      // li a0,0; li a7,93; ecall
      {"riscv64", 243, true, false, 0, {0x13, 0x05, 0x00, 0x00, 0x93, 0x08, 0xd0, 0x05, 0x73, 0x00, 0x00, 0x00}},
      // li r3,0; li r0,1; sc (ELFv2)
      {"ppc64le", 21, true, false, 2, {0x00, 0x00, 0x60, 0x38, 0x01, 0x00, 0x00, 0x38, 0x02, 0x00, 0x00, 0x44}},
      // lghi %r2,0; svc 1
      {"s390x", 22, true, true, 0, {0xa7, 0x29, 0x00, 0x00, 0x0a, 0x01}},
      // li a0,0; li v0,5058; syscall (n64)
      {"mips64le", 8, true, false, 0x80000000, {0x00, 0x00, 0x04, 0x24, 0xc2, 0x13, 0x02, 0x24, 0x0c, 0x00, 0x00, 0x00}},
      // ori a0,zero,0; ori a7,zero,93; syscall 0
      {"loong64", 258, true, false, 0x43, {0x04, 0x00, 0x80, 0x03, 0x0b, 0x74, 0x81, 0x03, 0x00, 0x00, 0x2b, 0x00}}};
  return kMachines;
}

class Image {
 public:
  explicit Image(const Machine& machine) : machine_(machine) {}

  std::string make() {
    const uint64_t header = machine_.wide ? 64 : 52, segment = machine_.wide ? 56 : 32;
    const uint64_t size = header + segment + machine_.code.size();
    for (const int byte : {0x7f, int{'E'}, int{'L'}, int{'F'}, machine_.wide ? 2 : 1, machine_.big_endian ? 2 : 1, 1, 0}) number(static_cast<uint64_t>(byte), 1);
    number(0, 8);
    number(2, 2);  // ET_EXEC
    number(machine_.number, 2);
    number(1, 4);
    word(kBase + header + segment);  // entry
    word(header);                    // program headers
    word(0);
    number(machine_.flags, 4);
    for (const uint64_t n : {header, segment, uint64_t{1}, uint64_t{machine_.wide ? 64U : 40U}, uint64_t{0}, uint64_t{0}}) number(n, 2);
    number(1, 4);  // PT_LOAD
    if (machine_.wide) number(5, 4);  // read, execute
    for (const uint64_t n : {uint64_t{0}, kBase, kBase, size, size}) word(n);
    if (!machine_.wide) number(5, 4);
    word(0x10000);  // alignment: pages may be that large
    for (const uint8_t byte : machine_.code) out_ += static_cast<char>(byte);
    return std::move(out_);
  }

 private:
  static constexpr uint64_t kBase = 0x400000;

  void word(uint64_t value) { number(value, machine_.wide ? 8 : 4); }
  void number(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>(value >> 8 * (machine_.big_endian ? bytes - 1 - i : i));
  }

  const Machine& machine_;
  std::string out_;
};

// Nothing when the probe ran; else why not.
Result<std::optional<Error>> probe(layers::Store& store, const std::string& architecture, std::stop_token stop) {
  const std::string program = probe_program(architecture);
  if (program.empty()) return std::optional<Error>();
  ASSIGN_OR_RETURN(const layers::PendingLayer layer, store.begin_layer());
  SandboxSpec spec;
  spec.upper_dir = layer.fs();
  spec.work_dir = layer.work();
  spec.argv = {"/probe"};
  SandboxMount file;
  file.type = SandboxMount::Type::kFile;
  file.target = "/probe";
  file.content = program;
  file.mode = 0755;
  spec.mounts.push_back(std::move(file));
  auto status = Sandboxes().run(spec, nullptr, stop, false);
  if (status && status->success()) return std::optional<Error>();
  if (status) return std::optional(Error(ErrorKind::kUnsupported, status->signal != 0 ? fmt::format("the emulator was killed by signal {}", status->signal) : fmt::format("the emulator ended with status {}", status->code)));
  // What the kernel says of a program that it cannot start; anything else is a sandbox that cannot be made.
  const int reason = status.error().error_number();
  if (reason != ENOEXEC && reason != ENOENT) return std::move(status).error();
  return std::optional(std::move(status).error());
}

Error cannot_run(const Plan& plan, const Step& step, const oci::Platform& platform, const Error& reason) {
  Diagnostic d = diagnostic_at(step, fmt::format("a RUN for {} cannot be executed on this {} machine", platform.text(), oci::Platform::host().text()));
  Error error(ErrorKind::kUnsupported, d.message);
  error = std::move(error).with_diagnostic(std::move(d));
  if (reason.error_number() == ENOENT) {
    error = std::move(error).with_note("an emulator is registered in binfmt_misc, but without the flag F, so that it cannot be seen in a sandbox; register it with F (fix binary)");
  } else if (reason.error_number() != ENOEXEC) {
    error = std::move(error).with_note(reason.message());
  }
  error = std::move(error).with_note("register an emulator: on Debian, apt-get install qemu-user-static binfmt-support");
  if (!(platform == plan.platform)) return error;
  return std::move(error).with_note("or build the stage on this machine for the other platform: FROM --platform=$BUILDPLATFORM, and cross-compile for $TARGETPLATFORM");
}

}  // namespace

std::string probe_program(const std::string& architecture) {
  for (const Machine& machine : machines()) {
    if (architecture == machine.architecture) return Image(machine).make();
  }
  return {};
}

Result<void> check_emulation(layers::Store& store, const Plan& plan, std::stop_token stop) {
  const oci::Platform host = oci::Platform::host();
  std::set<std::string> known = {host.architecture};
  for (const Step& step : plan.steps) {
    if (!std::holds_alternative<RunStep>(step.body)) continue;
    const oci::Platform& platform = plan.stages.at(step.stage).config.platform;
    if (platform.os != "linux") return cannot_run(plan, step, platform, Error(ErrorKind::kUnsupported, "only Linux programs can be executed"));
    if (platform.architecture.empty() || !known.insert(platform.architecture).second) continue;
    ASSIGN_OR_RETURN(const std::optional<Error> reason, probe(store, platform.architecture, stop));
    if (reason) return cannot_run(plan, step, platform, *reason);
  }
  return {};
}

}  // namespace lamina::builder::internal
