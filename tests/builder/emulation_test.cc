#include "builder/internal/emulation.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include "base/child_process.h"
#include "base/files.h"

using namespace lamina;
using namespace lamina::builder;

TEST_CASE("the probe of this machine's architecture runs here") {
  const std::string program = internal::probe_program(oci::Platform::host().architecture);
  REQUIRE_FALSE(program.empty());
  const auto dir = TempDir::create("/tmp", "probe-test");
  REQUIRE(dir);
  REQUIRE(write_file_atomically(AT_FDCWD, dir->path() + "/probe", program, Durability::kNone, 0755));
  SpawnOptions options;
  options.argv = {dir->path() + "/probe"};
  auto child = ChildProcess::spawn(options);
  REQUIRE(child);
  const auto status = child->wait();
  REQUIRE(status);
  CHECK(status->success());
}

TEST_CASE("probes are ELF executables of their machine") {
  struct Case {
    const char* architecture;
    char elf_class, order;
    uint16_t machine;
  };
  for (const Case& c : {Case{"amd64", 2, 1, 62}, Case{"386", 1, 1, 3}, Case{"arm64", 2, 1, 183}, Case{"arm", 1, 1, 40}, Case{"riscv64", 2, 1, 243}, Case{"ppc64le", 2, 1, 21}, Case{"s390x", 2, 2, 22},
                        Case{"mips64le", 2, 1, 8}, Case{"loong64", 2, 1, 258}}) {
    const std::string name = c.architecture;
    CAPTURE(name);
    const std::string program = internal::probe_program(name);
    REQUIRE(program.size() > 84);
    CHECK(program.substr(0, 4) == "\x7f" "ELF");
    CHECK(program[4] == c.elf_class);
    CHECK(program[5] == c.order);
    const auto low = static_cast<unsigned char>(program[c.order == 1 ? 18 : 19]), high = static_cast<unsigned char>(program[c.order == 1 ? 19 : 18]);
    CHECK((high << 8 | low) == c.machine);
  }
  CHECK(internal::probe_program("vax").empty());
}
